package monitor

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func pair(t *testing.T) (*conn, *conn) {
	t.Helper()
	a, f, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := newConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessageWithDescriptor(t *testing.T) {
	a, b := pair(t)
	f, err := sealedJSON("test", map[string]int{"x": 7})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := a.send(request{ID: 1, Op: opPing}, f); err != nil {
		t.Fatal(err)
	}
	var r request
	got, err := b.receive(&r)
	if err != nil || r.ID != 1 || r.Op != opPing || got == nil {
		t.Fatalf("%+v, %v, %v", r, got, err)
	}
	defer got.Close()
	var m map[string]int
	if err := readJSON(got, &m); err != nil || m["x"] != 7 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestBadMessages(t *testing.T) {
	for name, bad := range map[string]string{
		"no JSON":       "hello",
		"unknown field": `{"id":1,"op":"ping","sudo":true}`,
		"two values":    `{"id":1,"op":"ping"}{}`,
		"too long":      `{"id":1,"op":"` + strings.Repeat("x", maxMessage) + `"}`,
		"empty object":  `[]`,
	} {
		a, b := pair(t)
		if _, _, err := a.sock.WriteMsgUnix([]byte(bad), nil, nil); err != nil {
			t.Fatal(err)
		}
		var r request
		if f, err := b.receive(&r); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %+v, %v, %v", name, r, f, err)
		}
	}
	a, _ := pair(t)
	if err := a.send(request{Job: strings.Repeat("x", maxMessage)}, nil); err == nil {
		t.Error("a message that is too long was sent")
	}
}

func TestEndOfConnection(t *testing.T) {
	a, b := pair(t)
	a.Close()
	var r request
	if _, err := b.receive(&r); !errors.Is(err, io.EOF) {
		t.Errorf("after the other side's end: %v", err)
	}
}

// A descriptor that would block its reader is no request.
func TestRequestMustBeAFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var v any
	if err := readJSON(r, &v); err == nil {
		t.Error("a pipe was read")
	}
}

func TestCallsEndWithTheMonitor(t *testing.T) {
	a, f, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error)
	go func() { done <- c.Ping(context.Background()) }()
	var r request
	if _, err := a.receive(&r); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := <-done; !errors.Is(err, ErrGone) {
		t.Errorf("a call under way: %v", err)
	}
	<-c.Done()
	if err := c.Ping(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("a later call: %v", err)
	}
}

func FuzzStrict(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"start","job":"a","attempt":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r request
		_ = strict(data, &r)
	})
}
