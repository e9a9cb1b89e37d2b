package girder

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

const tokenHeader = "Girder-Token"

// Session is what girder_client_session_kwargs may set, named as the attributes of
// Python's requests.Session. The zero value is a session with the defaults.
type Session struct {
	// Insecure is verify=False: any certificate is taken.
	Insecure bool
	// CAFile is verify="/path": the certificates to trust instead of the system's.
	CAFile string
	// CertFile and KeyFile are cert: the client's certificate, PEM. KeyFile is
	// empty when the key is in CertFile.
	CertFile, KeyFile string
	// Headers are added to every request to the server.
	Headers map[string]string
	// Reach decides about connections, beside what nobody may connect to; nil: all
	// may be made.
	Reach Reach
	// Proxies by scheme ("http", "https", "all") or scheme and host
	// ("https://host"). None: the environment's (HTTPS_PROXY and so on).
	Proxies map[string]string
}

// Reach is asked, when a name was looked up and before each connection, whether it
// may be made: to an address of host, which is the session's own server, or a proxy
// or where a redirect leads. The error says why not and should be an [ErrAddress].
type Reach func(host string, to netip.AddrPort, server bool) error

// ParseSession reads girder_client_session_kwargs as a message or a job file
// carries it, and names every key that it does not know or whose value is wrong.
func ParseSession(kwargs map[string]any) (Session, error) {
	var s Session
	var bad []error
	for _, key := range slices.Sorted(maps.Keys(kwargs)) {
		value := kwargs[key]
		var err error
		switch key {
		case "verify":
			switch v := value.(type) {
			case nil:
			case bool:
				s.Insecure = !v
			case string:
				s.CAFile = v
			default:
				err = errors.New("want true, false or a path")
			}
		case "cert":
			switch v := value.(type) {
			case nil:
			case string:
				s.CertFile = v
			case []any:
				pair, ok := stringPair(v)
				if !ok {
					err = errors.New("want a path, or a certificate and a key")
				}
				s.CertFile, s.KeyFile = pair[0], pair[1]
			default:
				err = errors.New("want a path, or a certificate and a key")
			}
		case "headers":
			s.Headers, err = stringMap(value)
		case "proxies":
			s.Proxies, err = stringMap(value)
		default:
			err = errors.New("not supported; want verify, cert, headers or proxies")
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("cannot set %.100q of the Girder session: %w", key, err))
		}
	}
	return s, errors.Join(bad...)
}

func stringPair(v []any) (pair [2]string, ok bool) {
	if len(v) != 2 {
		return pair, false
	}
	for i := range v {
		if pair[i], ok = v[i].(string); !ok {
			return pair, false
		}
	}
	return pair, true
}

func stringMap(value any) (map[string]string, error) {
	if value == nil {
		return nil, nil
	}
	in, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("want names and texts")
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("the value of %.100q is no text", k)
		}
		out[k] = s
	}
	return out, nil
}

// transport makes connections as the session says. What is secret or particular to
// the server (token, headers, certificate, trust) stays with its own origin.
func (s Session) transport(api *url.URL) (http.RoundTripper, error) {
	proxy, err := s.proxy()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.Insecure}
	if s.CAFile != "" {
		pem, err := readPEM(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificates to trust: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use %s: no PEM certificate in it", s.CAFile)
		}
	}
	if s.CertFile != "" {
		cert, err := readPEM(s.CertFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the client certificate: %w", err)
		}
		key := cert
		if s.KeyFile != "" {
			if key, err = readPEM(s.KeyFile); err != nil {
				return nil, fmt.Errorf("cannot read the client certificate's key: %w", err)
			}
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cannot use the client certificate %s: %w", s.CertFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	header := http.Header{}
	for name, value := range s.Headers {
		switch http.CanonicalHeaderKey(name) {
		case tokenHeader, "Host", "Content-Length", "Transfer-Encoding", "Connection", "Range", "Accept-Encoding":
			return nil, fmt.Errorf("cannot set the header %.100q of the Girder session: the worker sets it", name)
		}
		header.Set(name, value)
	}

	local := isLoopback(api.Hostname())
	own := baseTransport(proxy, config, s.dial(func(address string) (bool, bool) { return strings.EqualFold(address, hostPort(api)), true }))
	direct := s.dial(func(string) (bool, bool) { return false, local })
	proxied := s.dial(func(string) (bool, bool) { return false, true })
	foreign := baseTransport(proxy, &tls.Config{MinVersion: tls.VersionTLS12}, func(ctx context.Context, network, address string) (net.Conn, error) {
		if ctx.Value(viaProxy{}) != nil {
			return proxied(ctx, network, address)
		}
		return direct(ctx, network, address)
	})
	return &transport{api: api, header: header, own: own, foreign: foreign, ca: s.CAFile}, nil
}

// dial connects to where it may. kind tells of an address, as it was before the name
// was looked up, whether it is the session's own server, and whether it may be this
// machine.
func (s Session) dial(kind func(address string) (server, local bool)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("cannot connect to %s: %w", address, err)
		}
		server, local := kind(address)
		d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
		d.Control = func(network, address string, conn syscall.RawConn) error {
			refuse := refuseLocal
			if local {
				refuse = refuseNobody
			}
			if err := refuse(network, address, conn); err != nil || s.Reach == nil {
				return err
			}
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("cannot connect to %s: %w", address, err)
			}
			return s.Reach(host, netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), server)
		}
		return d.DialContext(ctx, network, address)
	}
}

func baseTransport(proxy func(*http.Request) (*url.URL, error), config *tls.Config,
	dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		Proxy:               proxy,
		DialContext:         dial,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 30 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true, // lengths and ranges are those of the file
		// A page of 1 MiB of headers is no answer of Girder.
		MaxResponseHeaderBytes: 64 << 10,
	}
}

const maxPEM = 1 << 20

// readPEM reads a file that a message may have named: only a regular one, and not
// all of a large one.
func readPEM(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxPEM)
	}
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// proxy looks proxies up as requests does: scheme and host before scheme, "all" last.
func (s Session) proxy() (func(*http.Request) (*url.URL, error), error) {
	if len(s.Proxies) == 0 {
		return http.ProxyFromEnvironment, nil
	}
	parsed := map[string]*url.URL{}
	for key, value := range s.Proxies {
		if value == "" {
			parsed[strings.ToLower(key)] = nil
			continue
		}
		if !strings.Contains(value, "://") {
			value = "http://" + value
		}
		u, err := url.Parse(value)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("cannot use the proxy of the Girder session for %.100q: not a URL", key)
		}
		parsed[strings.ToLower(key)] = u
	}
	return func(r *http.Request) (*url.URL, error) {
		host := r.URL.Hostname()
		for _, key := range []string{r.URL.Scheme + "://" + host, r.URL.Scheme, "all://" + host, "all"} {
			if u, ok := parsed[key]; ok {
				return u, nil
			}
		}
		return nil, nil
	}, nil
}

// transport keeps what belongs to one origin there.
type transport struct {
	api          *url.URL
	header       http.Header
	own, foreign *http.Transport
	ca           string // whose authorities are trusted by own; empty: the system's
}

type viaProxy struct{}

// RoundTrip sends the session's headers with requests to the server, and takes the
// token out of all others, whoever put it there.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if sameOrigin(r.URL, t.api) {
		if len(t.header) > 0 {
			r = r.Clone(r.Context())
			for name, values := range t.header {
				if r.Header.Get(name) == "" {
					r.Header[name] = values
				}
			}
		}
		response, err := t.own.RoundTrip(r)
		return response, untrusted(t.ca, err)
	}
	ctx := r.Context()
	if u, err := t.foreign.Proxy(r); err == nil && u != nil {
		ctx = context.WithValue(ctx, viaProxy{}, true)
	}
	r = r.Clone(ctx)
	r.Header.Del(tokenHeader)
	response, err := t.foreign.RoundTrip(r)
	return response, untrusted("", err)
}

// untrusted explains an error of a handshake if it is that no authority in ca, or of
// the system where ca is empty, has signed the server's certificate.
func untrusted(ca string, err error) error {
	var unknown x509.UnknownAuthorityError
	var chain *tls.CertificateVerificationError
	if !errors.As(err, &unknown) || !errors.As(err, &chain) || len(chain.UnverifiedCertificates) == 0 {
		return err
	}
	cert := chain.UnverifiedCertificates[0]
	whose := fmt.Sprintf("of %.200q, signed by %.200q", cert.Subject, cert.Issuer)
	if ca == "" {
		return fmt.Errorf("the server's certificate (%s) is not signed by an authority that is known here; a session can name its file in verify: %w", whose, err)
	}
	return fmt.Errorf("the server's certificate (%s) is not signed by an authority in %s, which verify names: %w", whose, ca, err)
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (t *transport) CloseIdleConnections() {
	t.own.CloseIdleConnections()
	t.foreign.CloseIdleConnections()
}

const maxRedirects = 5

// checkRedirect follows what Girder's assetstores use redirects for: a GET that is
// answered elsewhere, or the same call at another path of the same server.
func checkRedirect(api *url.URL) func(*http.Request, []*http.Request) error {
	return func(next *http.Request, via []*http.Request) error {
		first := via[0]
		where := &url.URL{Scheme: next.URL.Scheme, Host: next.URL.Host} // the rest may hold a signature
		switch {
		case len(via) > maxRedirects:
			return fmt.Errorf("%w: more than %d of them", ErrRedirect, maxRedirects)
		case next.URL.Scheme != "http" && next.URL.Scheme != "https":
			return fmt.Errorf("%w: to %.200q", ErrRedirect, where)
		case next.Method != first.Method:
			return fmt.Errorf("%w: a %s would become a %s at %.200q; the address of the API should be that one", ErrRedirect, first.Method, next.Method, where)
		case sameOrigin(next.URL, api):
			return nil
		case first.Method != http.MethodGet:
			return fmt.Errorf("%w: a %s to another server, %.200q; the address of the API should be that one", ErrRedirect, first.Method, where)
		case via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme == "http":
			return fmt.Errorf("%w: from https to %.200q", ErrRedirect, where)
		}
		return nil
	}
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(hostPort(a), hostPort(b))
}

// hostPort is what to connect to for a URL.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// refuseLocal keeps a redirect from reaching what only this machine can reach. It
// sees the address after the name was looked up.
func refuseLocal(network, address string, conn syscall.RawConn) error {
	if err := refuseNobody(network, address, conn); err != nil {
		return fmt.Errorf("%w: %w", ErrRedirect, err)
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot connect to %s: %w", address, err)
	}
	ip := a.Addr().Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() {
		return fmt.Errorf("%w: to %s, an address of this machine", ErrRedirect, ip)
	}
	return nil
}

// metadata are the addresses of clouds' services of that kind that are not
// link-local: of Alibaba, Azure, Oracle and Amazon.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("192.0.0.192/32"), netip.MustParsePrefix("fd00:ec2::/32"),
}

// refuseNobody keeps from addresses where no server is that anybody means, but a
// cloud's metadata may be: a message names the server, and the metadata are the
// machine's.
func refuseNobody(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot connect to %s: %w", address, err)
	}
	ip := a.Addr().Unmap().WithZone("")
	if ip.IsLinkLocalUnicast() || ip.IsMulticast() || slices.ContainsFunc(metadata, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%w: %s is a link-local, metadata or group address", ErrAddress, ip)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
