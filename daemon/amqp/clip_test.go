package amqp

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/iotest"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/daemon/celery"
)

func frame(kind byte, channel uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(append(b, payload...), frameEnd)
}

func headerOf(size uint64) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{0, 60, 0, 0}, size), 0, 0)
}

type played struct {
	net.Conn
	io.Reader
}

func (p played) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// TestClip: bodies that are too large become stubs, whatever stands between them.
func TestClip(t *testing.T) {
	const max = 100
	small, body := bytes.Repeat([]byte("s"), max), bytes.Repeat([]byte("b"), 60)
	in := bytes.Join([][]byte{
		frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(max)), frame(3, 1, small),
		frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(180)), frame(3, 1, body),
		frame(8, 0, nil), frame(1, 2, []byte("deliver")), frame(2, 2, headerOf(3)), frame(3, 2, []byte("two")),
		frame(3, 1, body), frame(3, 1, body),
		frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(4)), frame(3, 1, []byte("more")),
		// One that is interrupted, which the library tells.
		frame(2, 3, headerOf(1000)), frame(1, 3, []byte("close")), frame(3, 3, []byte("after")),
	}, nil)
	for name, reader := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "with the error": iotest.DataErrReader,
	} {
		c := newClip(played{Reader: reader(bytes.NewReader(in))}, max)
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(name, err)
		}
		stub := func(size string) []byte { return append(bytes.Clone(c.mark), size...) }
		want := bytes.Join([][]byte{
			frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(max)), frame(3, 1, small),
			frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(uint64(len(stub("180"))))), frame(3, 1, stub("180")),
			frame(8, 0, nil), frame(8, 0, nil), frame(1, 2, []byte("deliver")), frame(2, 2, headerOf(3)), frame(3, 2, []byte("two")),
			frame(8, 0, nil), frame(8, 0, nil), // a sign of life for each that was dropped
			frame(1, 1, []byte("deliver")), frame(2, 1, headerOf(4)), frame(3, 1, []byte("more")),
			frame(2, 3, headerOf(uint64(len(stub("1000"))))), frame(3, 3, stub("1000")), frame(1, 3, []byte("close")), frame(3, 3, []byte("after")),
		}, nil)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%q, want\n%q", name, got, want)
		}
		if size, is := c.size(stub("180")); !is || size != 180 {
			t.Errorf("a stub is %d, %t", size, is)
		}
		if _, is := c.size([]byte("\x00180")); is {
			t.Error("anybody can write a stub")
		}
	}
	other := []byte("AMQP\x00\x00\x09\x01 and what a stranger says")
	if got, err := io.ReadAll(newClip(played{Reader: bytes.NewReader(other)}, max)); err != nil || !bytes.Equal(got, other) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestTooLarge: a task of 200 MiB comes without its body, and the next one with it.
func TestTooLarge(t *testing.T) {
	vhost := rabbit.Vhost(t)
	s := newSender(t, vhost)
	s.queue("celery", nil)
	for _, body := range [][]byte{make([]byte, 200<<20), []byte("small")} {
		if err := s.ch.PublishWithContext(t.Context(), "", "celery", false, false, amqp091.Publishing{CorrelationId: "x", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan celery.Delivery, 2)
	startWorker(t, brokerURL(rabbit.Addr(), vhost), 1, func(c *Config) {
		c.Free = func() int { return 1 }
		c.Task = func(_ context.Context, d *Delivery) {
			got <- d.Delivery
			d.Accept()
		}
	})
	if d := <-got; d.Omitted != 200<<20 || d.Body != nil || d.Properties.CorrelationID != "x" {
		t.Errorf("came as %d bytes, omitted %d, %+v", len(d.Body), d.Omitted, d.Properties)
	}
	if d := <-got; d.Omitted != 0 || string(d.Body) != "small" {
		t.Errorf("the next came as %q, omitted %d", d.Body, d.Omitted)
	}
}
