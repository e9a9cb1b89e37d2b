package amqp

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Broker is one RabbitMQ node as a broker URL names it.
type Broker struct {
	Host  string
	Port  int
	User  string
	Vhost string
	// Secure is set for amqps.
	Secure bool
	// External logs in by the client certificate instead of a password.
	External bool
	// Heartbeat is 0 for the default.
	Heartbeat time.Duration
	// TLS is what the URL's query says of certificates; it overrides the configuration.
	TLS TLS

	password string
}

// maxURLs bounds how many nodes a list may name.
const maxURLs = 32

// ParseBrokers reads the nodes of one RabbitMQ from URLs separated by ";", as Celery's
// broker_url. A virtual host is read as Celery does: nothing after the slash means
// "/", otherwise what follows, percent-decoded, so that %2F and a second slash
// are "/" too. No error holds a password.
func ParseBrokers(urls string) ([]Broker, error) {
	var all []Broker
	for text := range strings.SplitSeq(urls, ";") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		b, err := parseBroker(text)
		if err != nil {
			return nil, fmt.Errorf("broker %s: %w", mask(text), err)
		}
		if all = append(all, b); len(all) > maxURLs {
			return nil, fmt.Errorf("more than %d brokers", maxURLs)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no broker is named: write amqp://USER:PASSWORD@HOST:5672/VHOST")
	}
	return all, nil
}

func parseBroker(text string) (Broker, error) {
	b := Broker{Host: "localhost", User: "guest", password: "guest", Vhost: "/"}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return b, errors.New("not a URL: write amqp://USER:PASSWORD@HOST:5672/VHOST")
	}
	switch strings.ToLower(scheme) {
	case "amqp", "pyamqp", "librabbitmq":
		b.Port = 5672
	case "amqps", "pyamqps":
		b.Port, b.Secure = 5671, true
	default:
		return b, fmt.Errorf("%q is no broker that is understood here: only RabbitMQ is (amqp:// or amqps://)", scheme)
	}
	rest, fragment, found := strings.Cut(rest, "#")
	if found {
		return b, fmt.Errorf("a # must be written %%23 (before %q)", fragment[:0])
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if err := b.setAuthority(authority); err != nil {
		return b, err
	}
	if path != "" {
		vhost, err := url.PathUnescape(path)
		if err != nil || len(vhost) > 255 {
			return b, fmt.Errorf("the virtual host %q is not valid", path)
		}
		b.Vhost = vhost
	}
	return b, b.setQuery(query)
}

func (b *Broker) setAuthority(authority string) error {
	address := authority
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		address = authority[at+1:]
		user, password, hasPassword := strings.Cut(authority[:at], ":")
		var err error
		if b.User, err = url.PathUnescape(user); err != nil {
			return errors.New("the user name has a % that starts no escape: write it as %25")
		}
		if hasPassword {
			if b.password, err = url.PathUnescape(password); err != nil {
				return errors.New("the password has a % that starts no escape: write it as %25")
			}
		}
	}
	host, port := address, ""
	if strings.HasPrefix(address, "[") || strings.Count(address, ":") == 1 {
		if i := strings.LastIndex(address, ":"); i > strings.LastIndex(address, "]") {
			host, port = address[:i], address[i+1:]
		}
	} else if strings.Contains(address, ":") {
		return errors.New("write an IPv6 address in brackets")
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host != "" {
		b.Host = host
	}
	if strings.ContainsAny(b.Host, " \t%,") {
		return fmt.Errorf("the host %q is not valid", b.Host)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("the port %q is not valid", port)
		}
		b.Port = int(n)
	}
	return nil
}

// setQuery reads the parameters of RabbitMQ's URI query specification.
func (b *Broker) setQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the query (after ?) is not valid")
	}
	for key, all := range values {
		value := all[len(all)-1]
		switch key {
		case "heartbeat":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 {
				return fmt.Errorf("heartbeat=%s: a number of seconds, at least 1", value)
			}
			b.Heartbeat = time.Duration(n) * time.Second
		case "cacertfile":
			b.TLS.CA = value
		case "certfile":
			b.TLS.Cert = value
		case "keyfile":
			b.TLS.Key = value
		case "server_name_indication":
			b.TLS.ServerName = value
		case "auth_mechanism":
			switch strings.ToLower(value) {
			case "plain":
			case "external":
				b.External = true
			default:
				return fmt.Errorf("auth_mechanism=%s: plain and external are known", value)
			}
		case "verify":
			if value != "verify_peer" {
				return errors.New("verify=verify_none is refused: whoever answers could read and make tasks; name the authority's file instead (cacertfile)")
			}
		case "connection_timeout", "channel_max":
			// Their defaults serve; what is named is no mistake.
		default:
			return fmt.Errorf("the parameter %q is not known", key)
		}
	}
	if !b.Secure && (b.TLS != TLS{} || b.External) {
		return errors.New("certificates need amqps://")
	}
	return nil
}

// Addr is host:port.
func (b Broker) Addr() string { return net.JoinHostPort(b.Host, strconv.Itoa(b.Port)) }

// String is the URL with the password masked, for people and logs.
func (b Broker) String() string {
	scheme := "amqp"
	if b.Secure {
		scheme = "amqps"
	}
	// Celery's own banner writes a // for the virtual host /.
	return fmt.Sprintf("%s://%s:**@%s/%s", scheme, b.User, b.Addr(), b.Vhost)
}

// GoString keeps the password out of %#v.
func (b Broker) GoString() string { return b.String() }

// mask hides everything before the last @ of a URL that could not be read.
func mask(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	} else {
		scheme += "://"
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		rest = "**" + rest[at:]
	}
	return scheme + rest
}
