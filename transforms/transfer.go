package transforms

import (
	"encoding/json"
	"os"
)

// What a plan says about data that is moved before, beside and after the
// container: [Volume], [Girder], [Fetch], [Stream] and [Hook]. Everything in it
// is named, and names refer to one another; the names of one kind are unique in
// a plan and have the form of [Stream.Name].

// A Volume is a new, empty directory that the container sees, made for one
// attempt and removed when the attempt's hooks are done: Girder Worker's
// TemporaryVolume. A directory that the host has is a [Bind].
type Volume struct {
	Name string `json:"name"`
	// Target is where the container finds it.
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
	// HostDir is a directory of the submitter in which the volume is made, by a
	// process with the submitter's identity. Empty: the attempt's own work
	// directory, where it counts against the job's scratch space. The volume
	// itself has mode 02777, as Girder Worker's.
	HostDir string `json:"host_dir,omitempty"`
	// Mode is that of HostDir where there is none yet and it has to be made; 0 is 0777.
	Mode os.FileMode `json:"mode,omitempty"`
}

// DefaultVolume is the name of the volume that TemporaryVolume.default means,
// wherever it stands: every job has at most one.
const DefaultVolume = "default"

// Girder is a server that the attempt talks to, and as whom. The token is not
// here but in the attempt's [Secrets], under the same name.
type Girder struct {
	Name string `json:"name"`
	// URL is the root of the REST API: "https://host/api/v1".
	URL string `json:"url"`
	// MachineKey: as whom the machine's own API key says, which nobody but root
	// may read.
	MachineKey bool `json:"machine_key,omitempty"`
	// Session is what girder_client_session_kwargs says, as JSON (see
	// transforms/girder.ParseSession); its headers are secrets too and stand in
	// [Secrets].
	Session map[string]any `json:"session,omitempty"`
	// Own: the task comes from there, so it may be a service of this machine.
	Own bool `json:"own,omitempty"`
}

// Secrets is what a job's document says that no one may read back: it travels
// beside the plan, is kept apart from it, and is in no listing, log or record.
type Secrets struct {
	// Tokens are Girder tokens by the name of the [Girder]; APIKeys likewise.
	Tokens  map[string]string `json:"tokens,omitempty"`
	APIKeys map[string]string `json:"api_keys,omitempty"`
	// Headers are HTTP headers by the name of the [Girder] or [Stream] whose
	// requests carry them.
	Headers map[string]map[string]string `json:"headers,omitempty"`
	// Proxies are the addresses with a password in them, by the name of the
	// [Girder] and the key of its session's proxies.
	Proxies map[string]map[string]string `json:"proxies,omitempty"`
	// MachineKey is what servers with [Girder.MachineKey] are for. No document
	// has it: the monitor adds it.
	MachineKey string `json:"machine_key,omitempty"`
	// Call is the [PythonCall] of a function.
	Call json.RawMessage `json:"call,omitempty"`
}

// Empty tells whether there is no secret.
func (s Secrets) Empty() bool {
	return len(s.Tokens)+len(s.APIKeys)+len(s.Headers)+len(s.Proxies)+len(s.Call) == 0
}

// FetchKind is what a [Fetch] fetches.
type FetchKind string

// The kinds of fetch, each of the Girder Worker transform of that name.
const (
	FetchFile   FetchKind = "file"   // GirderFileIdToVolume
	FetchItem   FetchKind = "item"   // GirderItemIdToVolume
	FetchFolder FetchKind = "folder" // GirderFolderIdToVolume
)

// A Fetch brings something of a Girder server into a volume before the container
// starts. Where it comes to lie is as in Girder Worker:
// a file <volume>/<id>/<name in Girder> or, with Rename, <volume>/<Rename>; an item
// <volume>/<id>/<name>; a folder <volume>/<id>/<name or Rename>.
type Fetch struct {
	Name   string    `json:"name"`
	Kind   FetchKind `json:"kind"`
	Girder string    `json:"girder"` // name of a [Girder]
	ID     string    `json:"id"`     // 24 hexadecimal digits
	// Into names a [Volume], or a [Bind] by its Name.
	Into   string `json:"into"`
	Rename string `json:"rename,omitempty"`
	// Direct is where a file may be found on this machine, in Girder's own
	// storage (slicer_cli_web's DirectGirderFileIdToVolume). It is only a hint:
	// where the submitter cannot read it, or it is not used, the file is fetched.
	Direct string `json:"direct,omitempty"`
}

// An Insertion puts a text that is only known when the attempt runs into an
// argument: the path of what was fetched, as the container sees it, or a token.
// It goes into Plan.Args[Arg] before byte At. Insertions of one text are in
// ascending order of At, which counts bytes of the text as the plan has it.
type Insertion struct {
	// List says which list of the plan Arg counts in; empty is Args.
	List InsertionList `json:"list,omitempty"`
	Arg  int           `json:"arg"`
	At   int           `json:"at"`
	// Exactly one of these is set: Fetch names a [Fetch], Token a [Girder]
	// (slicer_cli_web's GirderToken).
	Fetch string `json:"fetch,omitempty"`
	Token string `json:"token,omitempty"`
}

// InsertionList is a list of texts in a [Plan].
type InsertionList string

// The lists that something may be inserted into.
const (
	InsertArgs       InsertionList = ""
	InsertEntrypoint InsertionList = "entrypoint"
	InsertEnv        InsertionList = "env"
)

// GirderFile is a file of a Girder server as one end of a stream
// (GirderFileIdToStream).
type GirderFile struct {
	Girder string `json:"girder"`
	ID     string `json:"id"`
}

// HTTPTarget takes the output of a stream as one request body with chunked
// transfer encoding (ChunkedTransferEncodingStream). Its headers are in [Secrets]
// under the stream's name.
type HTTPTarget struct {
	URL string `json:"url"`
	// Own: it is on a server that a [Girder] is on which is.
	Own bool `json:"own,omitempty"`
}

// HookKind is where a [Hook] takes its output.
type HookKind string

// The kinds of hook, each of the Girder Worker transform of that name.
const (
	HookItem     HookKind = "item"     // GirderUploadVolumePathToItem
	HookFolder   HookKind = "folder"   // GirderUploadVolumePathToFolder
	HookArtifact HookKind = "artifact" // GirderUploadVolumePathJobArtifact
)

// A Hook uploads something that the container wrote. Hooks run in their order,
// after the exit is recorded.
type Hook struct {
	Name   string   `json:"name"`
	Kind   HookKind `json:"kind"`
	Girder string   `json:"girder"`
	// ID is the item, the folder or the job.
	ID string `json:"id"`
	// From names a [Volume], or a [Bind] by its Name; Path is within it, clean
	// and relative, "." for all of it.
	From string `json:"from"`
	Path string `json:"path"`
	// ArtifactName is the artifact's name; empty: the file's.
	ArtifactName string `json:"artifact_name,omitempty"`
	// Reference, MimeType and FileName are upload_kwargs.
	Reference string `json:"reference,omitempty"`
	MimeType  string `json:"mime_type,omitempty"`
	FileName  string `json:"file_name,omitempty"`
	// DeleteFile removes the file from the volume after the upload.
	DeleteFile bool `json:"delete_file,omitempty"`
	// MustExist fails the job when there is nothing at Path.
	MustExist bool `json:"must_exist,omitempty"`
	// OnException runs the hook also when the job failed.
	OnException bool `json:"on_exception,omitempty"`
}
