package image

// FilterCalls is what a worker does before it reads anything.
var FilterCalls = filterCalls

// Note is what an import does before it, or its child, does anything.
var Note = noteProcess

// Names beneath an import's directory.
const (
	OwnerFile = ownerFile
	ChildFile = childFile
)
