package image

// FilterCalls is what a worker does before it reads anything.
var FilterCalls = filterCalls
