package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

// TLS names the files of a TLS connection, PEM. They are read at each connect, so
// that a renewed certificate is used from then on.
type TLS struct {
	CA         string // authorities that may sign the broker's certificate; empty: the system's
	Cert, Key  string // of the client
	ServerName string // that the broker's certificate is for; empty: the host
}

// over returns t with what is set in o replacing it.
func (t TLS) over(o TLS) TLS {
	if o.CA != "" {
		t.CA = o.CA
	}
	if o.Cert != "" || o.Key != "" {
		t.Cert, t.Key = o.Cert, o.Key
	}
	if o.ServerName != "" {
		t.ServerName = o.ServerName
	}
	return t
}

// load reads the files.
func (t TLS) load(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("cannot read the authorities of the broker's certificate: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate (PEM)", t.CA)
		}
	}
	if t.Cert != "" || t.Key != "" {
		key := t.Key
		if key == "" {
			key = t.Cert // one file may hold both
		}
		cert, err := tls.LoadX509KeyPair(t.Cert, key)
		if err != nil {
			return nil, fmt.Errorf("cannot read the client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

const (
	// DefaultHeartbeat finds a dead connection within 45 s. The broker's
	// proposal is used where it is shorter.
	DefaultHeartbeat = 15 * time.Second
	// dialTimeout bounds each of TCP's connect and the handshakes after it.
	dialTimeout = 15 * time.Second
	// closeTimeout bounds the farewell.
	closeTimeout = 3 * time.Second
)

// connection is one AMQP connection. ctx ends with it, and its cause says why.
type connection struct {
	*amqp091.Connection
	broker Broker
	ctx    context.Context
	end    context.CancelCauseFunc
	net    net.Conn
	clip   *clip
	ended  chan struct{} // nothing of the connection runs any more
}

// dial connects and logs in. The connection lives until it breaks, ctx ends or
// it is closed.
func (c *Client) dial(ctx context.Context, b Broker, name string) (*connection, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	plain, err := dialer.DialContext(ctx, "tcp", b.Addr())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { plain.Close() })
	defer stop()
	plain.SetDeadline(time.Now().Add(dialTimeout))
	conn := plain
	if b.Secure {
		files := c.config.TLS.over(b.TLS)
		settings, err := files.load(b.Host)
		if err != nil {
			conn.Close()
			return nil, err
		}
		secure := tls.Client(conn, settings)
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, untrusted(b, files.CA, err)
		}
		conn = secure
	}
	heartbeat := b.Heartbeat
	if heartbeat == 0 {
		heartbeat = DefaultHeartbeat
	}
	sasl := []amqp091.Authentication{&amqp091.PlainAuth{Username: b.User, Password: b.password}}
	if b.External {
		sasl = []amqp091.Authentication{&amqp091.ExternalAuth{}}
	}
	clipped := newClip(conn, celery.MaxBody)
	opened, err := amqp091.Open(clipped, amqp091.Config{
		SASL: sasl, Vhost: b.Vhost, Heartbeat: heartbeat, Locale: "en_US",
		FrameSize: 128 << 10, ChannelMax: 2047,
		Properties: amqp091.Table{"product": "girder-worker", "version": c.config.Version, "connection_name": c.config.NodeName + " " + name},
	})
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if b.Secure && code(err) == 0 {
			// TLS 1.3 tells of a refused client only now, if its words arrive.
			err = fmt.Errorf("%w: %w", errHungUp, err)
		}
		return nil, err
	}
	n := &connection{Connection: opened, broker: b, net: conn, clip: clipped, ended: make(chan struct{})}
	n.ctx, n.end = context.WithCancelCause(context.Background())
	closed := opened.NotifyClose(make(chan *amqp091.Error, 1))
	go func() {
		defer close(n.ended)
		if err := <-closed; err != nil {
			n.end(lossOf(err))
		}
		n.end(errors.New("closed"))
	}()
	return n, nil
}

// lossOf says in a person's words why a connection ended.
func lossOf(err *amqp091.Error) error {
	switch {
	case err.Server && err.Code == amqp091.ConnectionForced:
		return fmt.Errorf("RabbitMQ closed the connection: %s", err.Reason)
	case err.Server:
		return fmt.Errorf("RabbitMQ closed the connection: %s (%d)", err.Reason, err.Code)
	}
	return fmt.Errorf("the connection broke: %s", err.Reason)
}

// kill ends the connection at once, without a farewell.
func (n *connection) kill(cause error) {
	n.end(cause)
	n.net.Close()
}

// close ends the connection in order, or after a while without.
func (n *connection) close() {
	if n.ctx.Err() == nil {
		n.CloseDeadline(time.Now().Add(closeTimeout))
	}
	n.kill(errors.New("closed"))
	<-n.ended
}

// try runs f on a channel of its own: an error of AMQP ends the channel.
func (n *connection) try(f func(*amqp091.Channel) error) error {
	ch, err := n.Channel()
	if err != nil {
		return err
	}
	err = f(ch)
	ch.Close()
	return err
}
