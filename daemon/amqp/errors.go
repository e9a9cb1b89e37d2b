package amqp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Errors of deciding a delivery.
var (
	// ErrVoid: the connection had ended before anything was sent. The broker
	// delivers the task again, to this worker or another.
	ErrVoid = errors.New("the delivery is void: its connection has ended")
	// ErrUncertain: it was sent, and the connection ended before an answer. The
	// broker may deliver the task again, or not.
	ErrUncertain = errors.New("it is not known whether the broker took the acknowledgement")
	// ErrDecided: a second decision.
	ErrDecided = errors.New("the delivery was decided before")
)

// Errors of publishing.
var (
	// ErrNotConnected: nothing was sent.
	ErrNotConnected = errors.New("not connected to RabbitMQ")
	// ErrUnroutable: there is no queue, or no exchange, for the message: dropped.
	ErrUnroutable = errors.New("no queue takes the message")
	// ErrNacked: the broker could not take it, for example for a queue's length limit.
	ErrNacked = errors.New("RabbitMQ refused the message")
	// ErrUnconfirmed: it was sent, and not confirmed in time. It may have arrived.
	ErrUnconfirmed = errors.New("RabbitMQ did not confirm the message")
)

// errHungUp: TLS was agreed on, and then the broker closed the connection.
var errHungUp = errors.New("closed at once")

// problem is why a connection could not be made, for a person.
type problem struct {
	text   string
	denied bool // only a person can change it: try again slowly
	err    error
}

func (p *problem) Error() string { return p.text }
func (p *problem) Unwrap() error { return p.err }

// untrusted explains an error of a handshake if it is that no authority in ca, or of
// the system where ca is empty, has signed the broker's certificate.
func untrusted(b Broker, ca string, err error) error {
	var unknown x509.UnknownAuthorityError
	var chain *tls.CertificateVerificationError
	if !errors.As(err, &unknown) || !errors.As(err, &chain) || len(chain.UnverifiedCertificates) == 0 {
		return err
	}
	cert := chain.UnverifiedCertificates[0]
	p := &problem{denied: true, err: err}
	whose := fmt.Sprintf("of %.200q, signed by %.200q", cert.Subject, cert.Issuer)
	p.text = fmt.Sprintf("the certificate of %s (%s) is not signed by a known authority: name its authority's file in celery.broker_ca", b.Addr(), whose)
	if ca != "" {
		p.text = fmt.Sprintf("the certificate of %s (%s) is not signed by an authority in %s, celery.broker_ca: it has to hold the one that signed it", b.Addr(), whose, ca)
	}
	return p
}

// connectProblem explains why connecting failed. The error never holds the password.
func connectProblem(b Broker, err error) *problem {
	p := &problem{err: err}
	var server *amqp091.Error
	var untrusted *problem
	var host x509.HostnameError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case errors.Is(err, errHungUp):
		p.denied = true
		p.text = fmt.Sprintf("%s closes the TLS connection at once: it may want a client certificate, or another one (celery.broker_cert, celery.broker_key), or refuse user %q", b.Addr(), b.User)
	case errors.Is(err, context.Canceled):
		p.text = "stopped"
	case errors.As(err, &server) && server.Server && server.Code == amqp091.AccessRefused, errors.Is(err, amqp091.ErrCredentials):
		p.denied = true
		p.text = fmt.Sprintf("RabbitMQ at %s does not let user %q in: check user and password in celery.broker", b.Addr(), b.User)
	case errors.As(err, &server) && server.Code == amqp091.NotAllowed, errors.Is(err, amqp091.ErrVhost):
		p.denied = true
		reason := "no such virtual host, or no permission for it"
		if server != nil && server.Server {
			reason = server.Reason
		}
		p.text = fmt.Sprintf("RabbitMQ at %s refuses virtual host %q to user %q: %s", b.Addr(), b.Vhost, b.User, reason)
	case errors.Is(err, amqp091.ErrSASL):
		p.denied = true
		p.text = fmt.Sprintf("RabbitMQ at %s offers no way to log in that is known here (PLAIN, or EXTERNAL with auth_mechanism=external)", b.Addr())
	case errors.As(err, &untrusted):
		return untrusted
	case errors.As(err, &host):
		p.denied = true
		p.text = fmt.Sprintf("the certificate of %s is for another name (%v): set celery.broker_server_name", b.Addr(), host)
	case errors.As(err, &record):
		p.denied = true
		p.text = fmt.Sprintf("%s does not speak TLS: is its port for amqps://?", b.Addr())
	case errors.As(err, &dns):
		p.text = fmt.Sprintf("cannot find the address of %s: %v", b.Host, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		p.text = fmt.Sprintf("nothing listens at %s", b.Addr())
	default:
		p.text = fmt.Sprintf("cannot connect to %s: %v", b.Addr(), err)
	}
	return p
}

// code is the reply code of an AMQP error that the broker sent, or 0.
func code(err error) int {
	var e *amqp091.Error
	if errors.As(err, &e) && e.Server {
		return e.Code
	}
	return 0
}

// queueProblem explains why a queue cannot be used, and what to do.
func queueProblem(name string, err error) string {
	switch code(err) {
	case amqp091.AccessRefused:
		return fmt.Sprintf("RabbitMQ refuses queue %q: give the user permission to read it, and to configure and write it if it has to be made (%s)", name, reason(err))
	case amqp091.NotFound:
		return fmt.Sprintf("there is no queue %q any more", name)
	case amqp091.PreconditionFailed:
		return fmt.Sprintf("queue %q is not usable as it is: %s", name, reason(err))
	case amqp091.ResourceLocked:
		return fmt.Sprintf("queue %q belongs to another connection alone (exclusive)", name)
	}
	return fmt.Sprintf("cannot use queue %q: %v", name, err)
}

func reason(err error) string {
	var e *amqp091.Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return err.Error()
}
