// Package registry fetches an image from a registry and writes it as the tar of
// an OCI layout, for the image store to take in. It parses what a stranger's
// server says and talks to the network, so it runs in a process of its own, as
// the daemon's unprivileged user; the layers pass through it unopened.
//
// Credentials are the machine's, from a file as `docker login` writes it. No
// error and no message holds one. Everything is held against its digest, down
// from the reference where that has one.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What a caller can tell apart. The text of an error that wraps one is a line
// for a person.
var (
	// ErrUnreachable: no answer, or none that is the registry's. Another time
	// may do better.
	ErrUnreachable = errors.New("the registry cannot be reached")
	// ErrDenied: the registry wants other credentials, or any.
	ErrDenied = errors.New("the registry refuses access")
	// ErrNoSuchImage: the registry does not have it.
	ErrNoSuchImage = errors.New("the registry has no such image")
	// ErrBadImage: what the registry has is not what it should be, or is not for
	// this machine.
	ErrBadImage = errors.New("the registry's image is no good")
)

// Request is what is to be fetched.
type Request struct {
	// Ref is a name with a tag or a digest, as docker has it.
	Ref string `json:"ref"`
	// Name is what the archive calls the image.
	Name string `json:"name"`
	// Have are the diff ids of layers that are left out.
	Have []string `json:"have,omitempty"`
	// Known are digests of manifests or indexes: an image that has one is not
	// fetched, see [Result.Unchanged].
	Known []string `json:"known,omitempty"`
	// AuthFile holds credentials; empty or not there: none. CAFile holds
	// certificates in PEM that are trusted beside the system's.
	AuthFile string `json:"auth_file,omitempty"`
	CAFile   string `json:"ca_file,omitempty"`
	// PlainHTTP are registries, HOST or HOST:PORT, that are spoken to without TLS.
	// Loopback addresses may always be.
	PlainHTTP []string `json:"plain_http,omitempty"`
	Limits    Limits   `json:"limits"`
}

// Limits of a fetch. A zero field means its default.
type Limits struct {
	// Connect bounds the time to a connection. Default 5 s: a machine without a
	// network must find out soon.
	Connect time.Duration `json:"connect"`
	// Answer bounds the wait for the head of an answer. Default 30 s.
	Answer time.Duration `json:"answer"`
	// Stall bounds the time without a byte. Default 1 min.
	Stall time.Duration `json:"stall"`
	// Bytes of all layers as the registry keeps them. Default 64 GiB.
	Bytes int64 `json:"bytes"`
}

func (l Limits) withDefaults() Limits {
	set := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	set(&l.Connect, 5*time.Second)
	set(&l.Answer, 30*time.Second)
	set(&l.Stall, time.Minute)
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	return l
}

// Progress is how far a fetch has come.
type Progress struct {
	// Layer of Layers is being fetched, counted from 1; Have layers are there
	// already and not among them.
	Layer  int `json:"layer"`
	Layers int `json:"layers"`
	Have   int `json:"have"`
	// Read of Total bytes of the layers have come.
	Read  int64 `json:"read"`
	Total int64 `json:"total"`
	// LayerRead of LayerTotal bytes are of the layer that is being fetched.
	LayerRead  int64 `json:"layer_read"`
	LayerTotal int64 `json:"layer_total"`
}

// Result of a fetch.
type Result struct {
	// Digest is what the reference means in the registry: an index or a manifest.
	Digest string `json:"digest"`
	// Unchanged: the digest is one of [Request.Known], and nothing was written.
	Unchanged bool `json:"unchanged,omitempty"`
}

// source is one repository of a registry.
type source struct {
	client *http.Client
	base   string // URL of the repository; the transport knows when it is plain http
	limits Limits
}

// open greets the registry.
func open(ctx context.Context, r *Request, ref name.Reference) (*source, error) {
	limits := r.Limits.withDefaults()
	roots, err := trusted(r.CAFile)
	if err != nil {
		return nil, err
	}
	guard := &guard{plain: r.PlainHTTP, inner: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: limits.Connect}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   2 * limits.Connect,
		ResponseHeaderTimeout: limits.Answer,
		IdleConnTimeout:       limits.Stall,
		ForceAttemptHTTP2:     true,
		// A layer is what its digest says, not what a transport made of it.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
	}}
	login, err := credentials(r.AuthFile, ref.Context().RegistryStr())
	if err != nil {
		return nil, err
	}
	// The greeting has few bytes and many ways to hang.
	hello, cancel := context.WithTimeout(ctx, limits.Answer)
	defer cancel()
	authorized, err := transport.NewWithContext(hello, ref.Context().Registry, login, guard, []string{ref.Scope(transport.PullScope)})
	if err != nil {
		if certificate := guard.untrusted.Load(); certificate != nil {
			err = certificate
		}
		return nil, explain(ctx, err, ref.Context().RegistryStr())
	}
	return &source{
		client: &http.Client{Transport: authorized, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 5 {
				return errors.New("it redirects more than 5 times")
			}
			return nil
		}},
		base:   "https://" + ref.Context().RegistryStr() + "/v2/" + ref.Context().RepositoryStr(),
		limits: limits,
	}, nil
}

// trusted is the system's certificates and those of file.
func trusted(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificates to trust: %w", err)
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cannot read the certificates to trust: %s holds none in PEM", file)
	}
	return pool, nil
}

// explain puts an error into our own words, without what a URL may hold.
func explain(ctx context.Context, err error, registry string) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var known *Error
	var answer *transport.Error
	var refused plainRefused
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &refused):
		return blame(ErrDenied, "%v", refused)
	case errors.As(err, &answer):
		return explainStatus(answer.StatusCode, registry)
	case errors.As(err, &certificate):
		return blame(ErrUnreachable, "%s has a certificate that is not trusted (%v); name its authority in images.ca_file", registry, certificate.Err)
	}
	return blame(ErrUnreachable, "%s: %v", registry, inner(err))
}

func explainStatus(code int, registry string) error {
	switch {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return blame(ErrDenied, "%s answers %d %s: the image does not exist there, or the machine has to log in, see images.auth_file", registry, code, http.StatusText(code))
	case code == http.StatusNotFound:
		return blame(ErrNoSuchImage, "%s does not know it", registry)
	case code == http.StatusTooManyRequests:
		return blame(ErrUnreachable, "%s has had too many requests from here (429); try again later", registry)
	case code >= 500:
		return blame(ErrUnreachable, "%s answers %d %s", registry, code, http.StatusText(code))
	}
	return blame(ErrBadImage, "%s answers %d %s", registry, code, http.StatusText(code))
}

// inner drops the URL that net/http puts around an error: signed URLs of blob
// stores are secrets.
func inner(err error) error {
	var outer *url.Error
	for errors.As(err, &outer) {
		err = outer.Err
	}
	return err
}

// Error is an error with one of the sentinels.
type Error struct {
	Kind error
	Text string
}

// Error is one line for a person.
func (e *Error) Error() string { return e.Kind.Error() + ": " + e.Text }

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Kind }

func blame(kind error, format string, args ...any) error {
	return &Error{kind, fmt.Sprintf(format, args...)}
}

// isLoopback tells whether host, with a port or without, is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// parse reads a reference strictly: with a registry or docker.io's, a tag or latest.
func parse(ref string, plain []string) (name.Reference, error) {
	var options []name.Option
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, blame(ErrNoSuchImage, "%.300q is no reference", ref)
	}
	if slices.Contains(plain, parsed.Context().RegistryStr()) {
		options = append(options, name.Insecure)
	}
	return name.ParseReference(ref, options...)
}

func discard(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 64<<10)) // so that the connection can be used again
	body.Close()
}
