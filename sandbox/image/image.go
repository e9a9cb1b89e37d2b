// Package image is the store of container images: it takes archives in,
// keeps every layer once, by content, and tells which directories make up an
// image's root file system.
//
// # Files
//
//	DIR/                         0750, the group may read
//	    lock                     held while the index changes
//	    names.json               who calls which image what; written last, so it commits
//	    images/HEX.json          one image, by the sha256 of its config
//	    layers/                  0700: setuid files in here are out of reach
//	        HEX/diff/            one layer unpacked, by its diff id, as overlayfs wants it
//	        HEX/layer.json       its size and the digest of its tree
//	    staging/                 0700: imports under way and trash
//
// Every file is written aside, synced and renamed. A process that dies at any
// moment leaves an old or a new index and rubbish in staging, which the next
// [Open] for writing sweeps away.
//
// # Who parses what
//
// An archive is foreign: nothing of it is parsed by the process that calls
// [Store.Import], which is root. The binary starts itself again as a confined
// child (confine.go, worker.go: own namespaces and root, three capabilities, no
// network), which reads the archive (archive.go, compress.go, plan.go) and unpacks
// its layers (layer.go, extract.go, tree.go) into the staging directory. What it
// reports is bounded and checked again before it is believed.
//
// Layers are kept with the image's own numeric owners, 0 to 65535, whiteouts as
// character devices 0:0 and opaque directories by the attribute
// user.overlay.opaque, so an overlay mount needs the option userxattr.
package image

import (
	"slices"
	"time"
)

// Everyone is the owner of names that every user sees.
const Everyone = -1

// Image is what the store knows of one image.
type Image struct {
	// ID is "sha256:" and the hex digest of the image's config.
	ID string `json:"id"`
	// Names are in their short form, sorted. What [Store.List], [Store.Get] and
	// [Store.Resolve] return holds only those that the asking user may see.
	Names []Name `json:"-"`
	// DiffIDs are the layers, lowest first, as the config lists them.
	DiffIDs []string `json:"diff_ids"`
	// Digest is that of the manifest, "" where the archive had none, as a
	// docker-archive of old Docker has none.
	Digest string `json:"digest,omitempty"`
	// Indexes are the digests of the indexes through which the archive or the
	// registry led to the manifest, outermost first. Who signs a name that is
	// for several machines signs one of these.
	Indexes []string `json:"indexes,omitempty"`
	// Signatures are those that came with the image and fit one of its digests,
	// whoever made them. [Signature.Key] tells which were verified.
	Signatures []Signature `json:"signatures,omitempty"`
	// Pinned images stay, whatever is removed or pruned or pulled.
	Pinned bool   `json:"-"`
	Config Config `json:"config"`
	// Size is the bytes of all files of all layers, shared ones included.
	Size    int64     `json:"size"`
	Created time.Time `json:"created,omitzero"` // as the image says
	Added   time.Time `json:"added"`            // to this store
	Arch    string    `json:"arch"`
	OS      string    `json:"os"`
}

// hasDigest tells whether digest is the manifest's or that of an index that led to it.
func (i Image) hasDigest(digest string) bool {
	return i.Digest == digest || slices.Contains(i.Indexes, digest)
}

// Name is one user's name for an image.
type Name struct {
	// Ref is in the short form, always with a tag: "busybox:latest".
	Ref string `json:"ref"`
	// Owner is a user id, or [Everyone].
	Owner int `json:"owner"`
}

// Config is what an image says about running it. Nothing in it, labels
// included, may ever grant a right.
type Config struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        []string          `json:"env,omitempty"` // as the image has it: a key may be repeated
	WorkingDir string            `json:"working_dir,omitempty"`
	User       string            `json:"user,omitempty"` // name or number, with :GROUP or without
	StopSignal string            `json:"stop_signal,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	// Users and Groups are the image's own /etc/passwd and /etc/group, read at
	// import. A file that is missing or no regular file counts as empty.
	Users  []User  `json:"users,omitempty"`
	Groups []Group `json:"groups,omitempty"`
}

// User is a line of the image's /etc/passwd.
type User struct {
	Name string `json:"name"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Home string `json:"home,omitempty"`
}

// Group is a line of the image's /etc/group.
type Group struct {
	Name    string   `json:"name"`
	GID     int      `json:"gid"`
	Members []string `json:"members,omitempty"`
}

// Limits bound what an import may cost. A zero field means its default.
type Limits struct {
	// Bytes of all files of all layers of an archive. Default 64 GiB.
	Bytes int64 `json:"bytes"`
	// Entries in all layers. Default 2,000,000.
	Entries int64 `json:"entries"`
	// Depth of directories. Default 100.
	Depth int `json:"depth"`
	// Layers of one image. Default 128.
	Layers int `json:"layers"`
	// Documents is the bytes of all JSON documents read. Default 4 MiB.
	Documents int64 `json:"documents"`
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, def int64) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.Bytes, 64<<30)
	set(&l.Entries, 2_000_000)
	set(&l.Documents, 4<<20)
	if l.Depth <= 0 {
		l.Depth = 100
	}
	if l.Layers <= 0 {
		l.Layers = 128
	}
	return l
}

// Progress is how far an import has come.
type Progress struct {
	// Layer of Layers is being read, counted from 1.
	Layer  int `json:"layer"`
	Layers int `json:"layers"`
	// Read of Total bytes of the archive's layers are done.
	Read  int64 `json:"read"`
	Total int64 `json:"total"`
}
