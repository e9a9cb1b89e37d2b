package image

// FilterCalls is what a worker does before it reads anything.
var FilterCalls = filterCalls

// NoteChild is what an import does before its child does anything.
var NoteChild = noteChild
