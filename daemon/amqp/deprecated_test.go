package amqp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"girderworker/daemon/celery"
)

// recorder passes connections on to a broker and keeps what the clients send.
func recorder(t *testing.T, broker string) (addr string, sent func() [][]byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all []*bytes.Buffer
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", broker)
			if err != nil {
				t.Error(err)
				in.Close()
				return
			}
			kept := &bytes.Buffer{}
			mu.Lock()
			all = append(all, kept)
			mu.Unlock()
			work.Go(func() { io.Copy(in, out); in.Close() })
			work.Go(func() {
				defer out.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := in.Read(buf)
					mu.Lock()
					kept.Write(buf[:n])
					mu.Unlock()
					if _, bad := out.Write(buf[:n]); err != nil || bad != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().String(), func() (texts [][]byte) {
		mu.Lock()
		defer mu.Unlock()
		for _, b := range all {
			texts = append(texts, bytes.Clone(b.Bytes()))
		}
		return texts
	}
}

// TestNothingDeprecated: what RabbitMQ 4.3 refuses is not asked for: a prefetch for a
// whole channel, and queues that are neither durable nor exclusive.
func TestNothingDeprecated(t *testing.T) {
	vhost := rabbit.Vhost(t)
	addr, sent := recorder(t, rabbit.Addr())
	w := startWorker(t, brokerURL(addr, vhost), 2)
	w.ready()
	newSender(t, vhost).send("celery", 0, 2, 0)
	w.until("two tasks run", func() bool { return len(w.tasks) == 2 })
	if _, err := w.client.Ask(t.Context(), 10*time.Millisecond, func(to celery.Address) (celery.Message, error) {
		return celery.QueryTask([]string{"x"}, "ticket", to, time.Now().Add(time.Minute), &celery.Clock{})
	}); err != nil {
		t.Fatal(err)
	}
	declared, limited := 0, 0
	for _, text := range sent() {
		text = text[len("AMQP\x00\x00\x09\x01"):]
		for len(text) >= frameHead {
			size := int(binary.BigEndian.Uint32(text[3:]))
			if len(text) < frameHead+size+1 {
				break
			}
			kind, payload := text[0], text[frameHead:frameHead+size]
			text = text[frameHead+size+1:]
			if kind != frameMethod {
				continue
			}
			switch binary.BigEndian.Uint32(payload) {
			case 50<<16 | 10: // queue.declare: ticket, name, bits
				name := payload[7 : 7+payload[6]]
				bits := payload[7+payload[6]]
				const passive, durable, exclusive = 1, 2, 4
				declared++
				if bits&(passive|durable|exclusive) == 0 {
					t.Errorf("queue %q is neither durable nor exclusive", name)
				}
			case 60<<16 | 10: // basic.qos: size, count, global
				limited++
				if payload[10] != 0 {
					t.Error("a prefetch of a whole channel")
				}
			}
		}
	}
	if declared < 3 || limited < 3 {
		t.Errorf("%d queues and %d prefetches were seen", declared, limited)
	}
}
