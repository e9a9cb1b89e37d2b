package jobsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"girderworker/transforms/girder"
)

// Target is the Girder job that a job of ours reports to: the jobInfoSpec of a
// message, or whatever else names one. What of it is secret is kept in the job's
// secrets, the rest in its origin; [Target.Origin] and [Target.Secret] divide it.
type Target struct {
	// URL is the job's own, "http://HOST/api/v1/job/ID", before any override.
	URL string `json:"url"`
	// Method is how reports are sent; empty is PUT, and there is no other.
	Method string `json:"method,omitempty"`
	// Reference is the Girder job's id, for a person.
	Reference string `json:"reference,omitempty"`
	// Handler is the job's handler, where the message tells. It may be empty.
	Handler string `json:"handler,omitempty"`
	// Silent is logPrint false: the job's log is not sent.
	Silent bool `json:"silent,omitempty"`

	// Headers are sent with every report; Girder-Token is the one that matters.
	Headers map[string]string `json:"headers,omitempty"`
	// Session is girder_client_session_kwargs: verify, cert, headers, proxies.
	Session map[string]any `json:"session,omitempty"`
}

// memberName is the member of the objects that a job's origin and its secrets are.
const memberName = "girder_job"

// Origin is what goes into a job's origin, under the name "girder_job".
func (t Target) Origin() json.RawMessage {
	t.Headers, t.Session = nil, nil
	raw, _ := json.Marshal(t) // of texts: it encodes
	return raw
}

// Secret is what goes into a job's secrets, under the name "girder_job".
func (t Target) Secret() (json.RawMessage, error) {
	raw, err := json.Marshal(Target{Headers: t.Headers, Session: t.Session})
	if err != nil {
		return nil, fmt.Errorf("cannot keep the session of a Girder job: %w", err)
	}
	return raw, nil
}

// Split puts the target into a job's origin and secrets, which may be nil or
// objects with other members.
func (t Target) Split(origin json.RawMessage, secrets []byte) (json.RawMessage, []byte, error) {
	secret, err := t.Secret()
	if err != nil {
		return nil, nil, err
	}
	if origin, err = setMember(origin, t.Origin()); err != nil {
		return nil, nil, err
	}
	secrets, err = setMember(secrets, secret)
	return origin, secrets, err
}

func setMember(object []byte, value json.RawMessage) ([]byte, error) {
	members := map[string]json.RawMessage{}
	if len(object) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, fmt.Errorf("cannot add a Girder job to what is no JSON object: %w", err)
		}
	}
	members[memberName] = value
	return json.Marshal(members)
}

// ErrNoTarget: nothing that names a Girder job.
var ErrNoTarget = errors.New("it names no Girder job")

// TargetOf puts together what Split has divided.
func TargetOf(origin json.RawMessage, secrets []byte) (Target, error) {
	var t Target
	found := false
	for _, object := range [][]byte{origin, secrets} {
		var members map[string]json.RawMessage
		if len(object) == 0 {
			continue
		}
		if err := json.Unmarshal(object, &members); err != nil {
			return Target{}, errors.New("cannot read where the job reports to: it is no JSON object") // the cause may quote a secret
		}
		raw, ok := members[memberName]
		if !ok {
			continue
		}
		found = true
		url := t.URL
		if err := json.Unmarshal(raw, &t); err != nil {
			return Target{}, errors.New("cannot read where the job reports to")
		}
		if url != "" {
			t.URL = url // the secrets name none
		}
	}
	if !found || t.URL == "" {
		return Target{}, ErrNoTarget
	}
	return t, nil
}

// ParseJobInfo reads a jobInfoSpec, of a message's headers or of the older keyword
// jobInfo, as it was decoded from the message.
func ParseJobInfo(spec map[string]any) (Target, error) {
	var t Target
	text := func(key string, into *string) error {
		switch v := spec[key].(type) {
		case nil:
		case string:
			*into = v
		default:
			return fmt.Errorf("cannot use the jobInfoSpec: %s is no text", key)
		}
		return nil
	}
	err := errors.Join(text("url", &t.URL), text("method", &t.Method), text("reference", &t.Reference), text("handler", &t.Handler))
	if err != nil {
		return Target{}, err
	}
	if p, ok := spec["logPrint"].(bool); ok {
		t.Silent = !p
	}
	switch headers := spec["headers"].(type) {
	case nil:
	case map[string]any:
		t.Headers = make(map[string]string, len(headers))
		for name, v := range headers {
			s, ok := v.(string)
			if !ok {
				return Target{}, fmt.Errorf("cannot use the jobInfoSpec: header %.100q is no text", name)
			}
			t.Headers[name] = s
		}
	default:
		return Target{}, errors.New("cannot use the jobInfoSpec: headers is no table")
	}
	return t, t.check()
}

func (t Target) check() error {
	if t.Method != "" && t.Method != http.MethodPut {
		return fmt.Errorf("cannot report to a Girder job by %.20q: want PUT", t.Method)
	}
	_, _, err := girder.SplitJobURL(t.URL)
	return err
}

// tokenHeader is the one of Headers that goes to Girder's own server only.
const tokenHeader = "Girder-Token"

// token takes the token out of the headers.
func (t Target) token() (token string, others map[string]string) {
	for name, v := range t.Headers {
		if http.CanonicalHeaderKey(name) == tokenHeader {
			token = v
			continue
		}
		if others == nil {
			others = map[string]string{}
		}
		others[name] = v
	}
	return token, others
}

// LogValue shows no secret.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// String is the job's address.
func (t Target) String() string {
	if i := strings.IndexByte(t.URL, '?'); i >= 0 {
		return t.URL[:i]
	}
	return t.URL
}

// GoString keeps secrets out of %#v.
func (t Target) GoString() string { return "jobsync.Target{" + t.String() + "}" }
