package registry

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/authn"
)

// guard lets no request out in the clear, wherever a registry redirects or sends
// for a token, but to where that is allowed.
type guard struct {
	plain []string
	inner http.RoundTripper
	// untrusted is a certificate that was not accepted: a greeting that goes on
	// in the clear would hide it.
	untrusted atomic.Pointer[tls.CertificateVerificationError]
}

// plainRefused names the host.
type plainRefused string

func (p plainRefused) Error() string {
	return fmt.Sprintf("%s is not to be spoken to without TLS; name it in images.plain_http if that is meant", string(p))
}

func (g *guard) allowsPlain(host string) bool {
	return isLoopback(host) || slices.Contains(g.plain, host)
}

// RoundTrip implements [http.RoundTripper].
func (g *guard) RoundTrip(r *http.Request) (*http.Response, error) {
	plain := r.URL.Scheme == "http" && g.allowsPlain(r.URL.Host)
	if r.URL.Scheme != "https" && !plain {
		return nil, plainRefused(r.URL.Host)
	}
	answer, err := g.inner.RoundTrip(r)
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		g.untrusted.Store(certificate)
	}
	return answer, err
}

// maxAuthFile bounds the file of credentials in bytes.
const maxAuthFile = 1 << 20

// credentials finds what the machine says to a registry, in a file as `docker
// login` and `podman login` write it.
func credentials(file, registry string) (authn.Authenticator, error) {
	if file == "" {
		return authn.Anonymous, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the credentials for registries: %w; the daemon's user must be able to", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAuthFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read the credentials for registries: %w", err)
	}
	var document struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredHelpers map[string]string          `json:"credHelpers"`
		CredsStore  string                     `json:"credsStore"`
	}
	// The decoder's own words could quote what it read.
	if json.Unmarshal(text, &document) != nil {
		return nil, fmt.Errorf("cannot read the credentials for registries: %s is not as `docker login` writes it", file)
	}
	for host, entry := range document.Auths {
		if canonical(host) != canonical(registry) {
			continue
		}
		var login authn.AuthConfig
		if json.Unmarshal(entry, &login) != nil {
			return nil, fmt.Errorf("cannot read the credentials for registries: the entry of %s in %s is not as `docker login` writes it", host, file)
		}
		if login != (authn.AuthConfig{}) {
			return authn.FromConfig(login), nil
		}
	}
	if document.CredsStore != "" || document.CredHelpers[registry] != "" {
		return nil, fmt.Errorf("cannot use the credentials for %s: %s leaves them to a helper program, which the daemon does not run; write them there with `docker login` on a machine without one", registry, file)
	}
	return authn.Anonymous, nil
}

// canonical is the host of an entry of the file, which for Docker's own registry
// is an old URL.
func canonical(host string) string {
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "docker.io":
		return "index.docker.io"
	}
	return host
}
