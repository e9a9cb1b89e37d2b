package image

// The confined child and the process that started it talk in JSON: one request
// to the child, messages back, one a line, and one answer to the child's plan.

// task is what a confined child is for.
type task string

const (
	taskUnpack  task = "unpack"  // an archive, into the child's root
	taskInspect task = "inspect" // the root file system that layers make
	taskVerify  task = "verify"  // the tree of one layer
	taskSigned  task = "signed"  // whose signatures were kept
)

// request is the child's whole order.
type request struct {
	Task task `json:"task"`
	// Root is the directory that becomes the child's root; for taskInspect an
	// empty one for the mounts.
	Root string `json:"root"`
	// Lowers are the layers to look at, lowest first.
	Lowers []string `json:"lowers,omitempty"`
	Limits Limits   `json:"limits"`
	// Absent are the diff ids of layers that the archive may leave out.
	Absent []string `json:"absent,omitempty"`
	// Keys are in PEM. Signature is a detached one over the archive.
	Keys      []string `json:"keys,omitempty"`
	Signature []byte   `json:"signature,omitempty"`
	// Signatures are what taskSigned looks at.
	Signatures []Signature `json:"signatures,omitempty"`
	// RootInode is what the worker must find as "/" before it begins.
	RootInode uint64 `json:"root_inode,omitempty"`
}

// message is one line of the child's. Exactly one field is set, but for Done
// beside Signatures, of which there may be none.
type message struct {
	Refusal  *refusal       `json:"refusal,omitempty"`
	Plan     []foundImage   `json:"plan,omitempty"`
	Progress *Progress      `json:"progress,omitempty"`
	Layer    *unpackedLayer `json:"layer,omitempty"`
	Skipped  *skipped       `json:"skipped,omitempty"`
	Accounts *accounts      `json:"accounts,omitempty"`
	Tree     string         `json:"tree,omitempty"`
	// Signatures come back with their keys.
	Signatures []Signature `json:"signatures,omitempty"`
	Done       bool        `json:"done,omitempty"`
}

// foundImage is an image of an archive as the child understands it, with the
// names that the archive gives it.
type foundImage struct {
	Image Image    `json:"image"`
	Refs  []string `json:"refs"`
}

// unpackedLayer is the directory, named by the hex of DiffID, that the child
// filled.
type unpackedLayer struct {
	DiffID  string `json:"diff_id"`
	Size    int64  `json:"size"`
	Entries int64  `json:"entries"`
	Tree    string `json:"tree"`
}

// skipped counts the device nodes and named pipes that were left out.
type skipped struct {
	Count int64  `json:"count"`
	First string `json:"first"`
}

// accounts are the users and groups of an image.
type accounts struct {
	Users  []User  `json:"users"`
	Groups []Group `json:"groups"`
}
