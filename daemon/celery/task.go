package celery

import (
	"encoding/json"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Task is one task message, read.
type Task struct {
	Request
	Links

	// Job says how to tell Girder of the job: header jobInfoSpec or, of old
	// senders, the keyword argument jobInfo. nil: there is no Girder job.
	Job *JobInfo
	// APIURL is Girder's REST API, ".../api/v1": header girder_api_url, or apiUrl
	// of legacy jobs. Empty: not told.
	APIURL string
	// ClientToken may create jobs in the name of the user, and nothing else:
	// header girder_client_token.
	ClientToken string
	// Hooks are the header girder_result_hooks, each as JSON. An AMQP table has
	// no order, so neither have their keys: what reads references in them must
	// restore it (see [jsonpickle.DecodeTable]).
	Hooks []json.RawMessage
	// HookTables are the same, as [jsonpickle.DecodeTable] wants them.
	HookTables []any
	// Session is the header girder_client_session_kwargs, a JSON object: attributes
	// of the HTTP session that reports to Girder, such as {"verify": false}. nil: none.
	Session json.RawMessage

	// Body is the whole body: decoded, inflated, valid UTF-8, JSON as Python
	// writes it (NaN may occur). References are numbered over the whole of it.
	Body []byte
	// Args, Kwargs and Embed are where in Body the parts stand. Embed is nil in protocol 1.
	Args, Kwargs, Embed []byte
	// Positional and Keyword are the arguments as values. The keyword jobInfo is
	// not among them: it is in Job.
	Positional jsonpickle.Tuple
	Keyword    *jsonpickle.Dict
}

// Request is what has to be kept of a task until its end is told: Celery's request
// context. It holds no token and is written as JSON.
type Request struct {
	Protocol int    `json:"protocol"` // 1 or 2; the hybrid is 2
	ID       string `json:"id"`       // chosen by the caller, 1 to 255 bytes, printable
	Name     string `json:"task"`     // "girder_worker.docker.tasks.docker_run"
	Shadow   string `json:"shadow,omitempty"`

	RootID     string `json:"root_id,omitempty"`
	ParentID   string `json:"parent_id,omitempty"`
	Group      string `json:"group,omitempty"`
	GroupIndex *int   `json:"group_index,omitempty"`

	ETA     time.Time `json:"eta,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	Retries int       `json:"retries,omitempty"` // how often the sender has retried it
	// Hard and Soft are time limits; 0 is none.
	Hard time.Duration `json:"hard,omitempty"`
	Soft time.Duration `json:"soft,omitempty"`

	IgnoreResult  bool   `json:"ignore_result,omitempty"`
	ReplyTo       string `json:"reply_to,omitempty"`       // queue of the caller; empty: nobody waits
	CorrelationID string `json:"correlation_id,omitempty"` // empty: the id

	Priority    int    `json:"priority"` // 0 to 9, larger first
	Exchange    string `json:"exchange"`
	RoutingKey  string `json:"routing_key"`
	Queue       string `json:"queue,omitempty"`
	Redelivered bool   `json:"redelivered,omitempty"`

	Origin     string `json:"origin,omitempty"` // "gen<pid>@<host>", for display
	ArgsRepr   string `json:"argsrepr,omitempty"`
	KwargsRepr string `json:"kwargsrepr,omitempty"`
	// PlainArgs and PlainKwargs are the arguments for display: plain JSON of
	// bounded size, objects as their class names, tokens masked.
	PlainArgs   json.RawMessage `json:"args,omitempty"`
	PlainKwargs json.RawMessage `json:"kwargs,omitempty"`
}

// Links are the tasks that follow: embed. Their arguments may hold tokens, so
// they are kept where tokens are.
type Links struct {
	Callbacks []Signature `json:"callbacks,omitempty"` // after success
	Errbacks  []Signature `json:"errbacks,omitempty"`  // after failure
	Chain     []Signature `json:"chain,omitempty"`     // the last one is next
	Chord     *Signature  `json:"chord,omitempty"`     // after the whole group
}

// JobInfo is how to tell Girder of a job: jobInfoSpec.
type JobInfo struct {
	Method    string            `json:"method"`    // PUT
	URL       string            `json:"url"`       // "<api>/job/<id>", http or https
	Reference string            `json:"reference"` // the job's id in Girder
	Headers   map[string]string `json:"headers"`   // Girder-Token: a secret
	LogPrint  bool              `json:"logPrint"`  // whether the log is wanted
}

// Name reported to people: the shadow name where there is one.
func (r *Request) DisplayName() string {
	if r.Shadow != "" {
		return r.Shadow
	}
	return r.Name
}

// Root is the first task of the work-flow: the task itself where none is told.
func (r *Request) Root() string {
	if r.RootID != "" {
		return r.RootID
	}
	return r.ID
}
