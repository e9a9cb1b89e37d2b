package girdertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// problem is an error as Girder answers it.
type problem struct {
	status int
	Field  string `json:"field,omitempty"`
	Text   string `json:"message"`
	Type   string `json:"type"`
}

func (p *problem) Error() string { return p.Text }

func rest(format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, Text: fmt.Sprintf(format, args...), Type: "rest"}
}

func validation(field, format string, args ...any) error {
	return &problem{status: http.StatusBadRequest, Field: field, Text: fmt.Sprintf(format, args...), Type: "validation"}
}

func denied(status int, format string, args ...any) error {
	return &problem{status: status, Text: fmt.Sprintf(format, args...), Type: "access"}
}

// raw is an answer that is not JSON; write sends it.
type raw struct{ write func(http.ResponseWriter) }

// A form may be this long. Girder has no limit.
const maxForm = 64 << 20

func (s *Server) serve(pattern string, handle route, w http.ResponseWriter, r *http.Request) {
	if (r.Method == http.MethodPost || r.Method == http.MethodPut) && r.Header.Get("Content-Length") == "" && len(r.TransferEncoding) == 0 {
		http.Error(w, "411 Length Required", http.StatusLengthRequired)
		return
	}
	if err := parseForm(r); err != nil {
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<h2>400 Bad Request</h2>\n<p>%s</p>\n", err)
		return
	}
	s.mu.Lock()
	s.calls = append(s.calls, Call{
		Route: pattern, Path: strings.TrimPrefix(r.URL.Path, "/api/v1/"),
		Header: r.Header.Clone(), Form: r.Form, Length: r.ContentLength,
	})
	fault := s.fault(pattern)
	s.mu.Unlock()

	answer := func(w http.ResponseWriter) { s.answer(handle, w, r) }
	if fault == nil {
		answer(w)
		return
	}
	fault.apply(s, w, r, answer)
}

//lint:ignore ST1005 the words are CherryPy's
var errNotUTF8 = errors.New("The request entity could not be decoded. The following charsets were attempted: ['utf-8']")

// parseForm reads parameters as CherryPy does: from the query and from a form body,
// which must be UTF-8. Other bodies are left alone.
func parseForm(r *http.Request) error {
	r.Form = r.URL.Query()
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm))
	if err != nil {
		return err
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return err
	}
	for name, vs := range values {
		for _, v := range vs {
			if !utf8.ValidString(v) {
				return errNotUTF8
			}
		}
		r.Form[name] = append(r.Form[name], vs...)
	}
	return nil
}

func (s *Server) answer(handle route, w http.ResponseWriter, r *http.Request) {
	req := &request{Request: r, w: w}
	s.authenticate(req)
	doc, err := handle(req)
	status := http.StatusOK
	if p, ok := err.(*problem); ok {
		doc, status = p, p.status
	} else if err != nil {
		panic(http.ErrAbortHandler) // the request's body broke off: nobody is there to answer
	}
	if raw, ok := doc.(raw); ok {
		raw.write(w)
		return
	}
	body, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}
