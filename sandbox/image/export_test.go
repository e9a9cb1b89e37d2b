package image

// FilterCalls is what a worker does before it reads anything.
var FilterCalls = filterCalls

// RaceDetector tells whether it is in, which makes processes slow to start.
const RaceDetector = raceDetector
