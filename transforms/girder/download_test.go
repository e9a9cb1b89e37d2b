package girder_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func readAll(d *girder.Download, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

const route = "GET /file/{id}/download"

func TestDownload(t *testing.T) {
	for _, sha := range []bool{false, true} {
		w := newWorld(t, girdertest.Config{SHA512: sha})
		for _, n := range []int{0, 1, 64 << 10, 1<<20 + 1} {
			data := noise(n)
			f, err := w.c.File(t.Context(), w.AddFile(w.item, "f", data))
			if err != nil {
				t.Fatal(err)
			}
			if (f.SHA512 != "") != sha {
				t.Errorf("the hash is %q", f.SHA512)
			}
			if got, err := readAll(w.c.Download(t.Context(), f)); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes: got %d, %v", n, len(got), err)
			}
		}
	}
}

func TestDownloadGoesOn(t *testing.T) {
	data := noise(1 << 20)
	for name, faults := range map[string][]girdertest.Fault{
		"broken":        {girdertest.Truncate(0), girdertest.Truncate(1000), girdertest.Truncate(300 << 10), girdertest.DropBefore(), girdertest.Truncate(1)},
		"unavailable":   {girdertest.Truncate(1000), girdertest.Status(500), girdertest.Status(503), girdertest.Busy(429, time.Second), girdertest.Truncate(5)},
		"stands still":  {girdertest.Hang(), girdertest.Stall(1000)},
		"no ranges":     {girdertest.Truncate(1000), girdertest.NoRange()},
		"broken, again": {girdertest.Truncate(500 << 10), girdertest.NoRange(), girdertest.Truncate(100)},
	} {
		for _, sha := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, girdertest.Config{SHA512: sha}, func(c *girder.Config) {
					c.Stall, c.Timeout = 200*time.Millisecond, 200*time.Millisecond
				})
				f, err := w.c.File(t.Context(), w.AddFile(w.item, "f", data))
				if err != nil {
					t.Fatal(err)
				}
				for _, fault := range faults {
					w.Fail(route, 1, fault)
				}
				if got, err := readAll(w.c.Download(t.Context(), f)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				if w.pauses.count() == 0 {
					t.Error("nothing failed")
				}
			})
		}
	}
}

func TestDownloadGivesUp(t *testing.T) {
	w := newWorld(t, girdertest.Config{}, func(c *girder.Config) { c.Retry.Attempts = 3 })
	f, err := w.c.File(t.Context(), w.AddFile(w.item, "f", noise(1000)))
	if err != nil {
		t.Fatal(err)
	}
	w.Fail(route, 1, girdertest.Truncate(400))
	w.Fail(route, -1, girdertest.Truncate(0))
	got, err := readAll(w.c.Download(t.Context(), f))
	if len(got) != 400 || err == nil || !strings.Contains(err.Error(), "beyond byte 400 of 1000") {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	w.Mend()
	w.Fail(route, 1, girdertest.Truncate(400))
	w.Fail(route, -1, girdertest.Status(403))
	if got, err := readAll(w.c.Download(t.Context(), f)); len(got) != 400 || !errors.Is(err, girder.ErrDenied) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	w.Mend()
	if _, err := w.c.Download(t.Context(), girder.File{ID: nobody}); !errors.Is(err, girder.ErrNoSuch) {
		t.Errorf("got %v", err)
	}
}

func TestDownloadIsHeldAgainstTheDocument(t *testing.T) {
	data := noise(1000)
	w := newWorld(t, girdertest.Config{})
	id := w.AddFile(w.item, "f", data)
	f, err := w.c.File(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	more := func(n int64) girder.File { g := f; g.Size = &n; return g }
	for name, c := range map[string]struct {
		file  girder.File
		fault *girdertest.Fault
	}{
		"shorter":   {more(999), nil},
		"longer":    {more(1001), nil},
		"too much":  {f, fault(girdertest.TooMuch(1))},
		"much more": {f, fault(girdertest.TooMuch(1 << 20))},
		"negative":  {more(-5), nil},
		"hash":      {func() girder.File { g := f; g.SHA512 = strings.Repeat("0", 128); return g }(), nil},
	} {
		w.Mend()
		if c.fault != nil {
			w.Fail(route, 1, *c.fault)
		}
		got, err := readAll(w.c.Download(t.Context(), c.file))
		if err == nil || !errors.Is(err, girder.ErrContents) && !errors.Is(err, girder.ErrAnswer) || len(got) > 1000 {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
	if w.pauses.count() != 0 {
		t.Errorf("waited %v", w.pauses.took)
	}
}

func fault(f girdertest.Fault) *girdertest.Fault { return &f }

// A file that is replaced while it is read must not become a mixture.
func TestDownloadOfAFileThatChanges(t *testing.T) {
	for name, size := range map[string]int{"same size": 1000, "other size": 2000, "shorter": 10} {
		for _, sha := range []bool{false, true} {
			clock := time.Now()
			w := newWorld(t, girdertest.Config{SHA512: sha, Now: func() time.Time { return clock }})
			id := w.AddFile(w.item, "f", noise(1000))
			f, err := w.c.File(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			w.Fail(route, 1, girdertest.Truncate(400))
			w.pauses.then = func() {
				clock = clock.Add(time.Second)
				w.ReplaceContent(id, bytes.Repeat([]byte("new"), size)[:size])
				w.pauses.then = nil
			}
			if got, err := readAll(w.c.Download(t.Context(), f)); !errors.Is(err, girder.ErrContents) {
				t.Errorf("%s: got %d bytes, %v", name, len(got), err)
			}
		}
	}
}

func TestDownloadIsCanceled(t *testing.T) {
	gone := errors.New("the job was canceled")
	w := newWorld(t, girdertest.Config{})
	f, err := w.c.File(t.Context(), w.AddFile(w.item, "f", noise(1000)))
	if err != nil {
		t.Fatal(err)
	}
	w.Fail(route, -1, girdertest.Stall(400))
	ctx, cancel := context.WithCancelCause(t.Context())
	d, err := w.c.Download(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := io.ReadFull(d, make([]byte, 400)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := d.Read(make([]byte, 1)); done <- err }()
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestDownloadIsClosed(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	f, err := w.c.File(t.Context(), w.AddFile(w.item, "f", noise(1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.c.Download(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	d.Close()
	if _, err := d.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestDownloadWithEndedSessionToken(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	data := noise(1000)
	c := newClient(t, girder.Config{API: w.API(), APIKey: w.AddAPIKey(w.user), Sleep: w.pauses.sleep})
	f, err := c.File(t.Context(), w.AddFile(w.item, "f", data))
	if err != nil {
		t.Fatal(err)
	}
	w.Fail(route, 1, girdertest.Truncate(400))
	w.pauses.then = func() {
		calls := w.Calls(route)
		w.RevokeToken(calls[len(calls)-1].Header.Get("Girder-Token"))
	}
	if got, err := readAll(c.Download(t.Context(), f)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// BenchmarkDownload reads 64 MiB; compare with BenchmarkPlainGet.
func BenchmarkDownload(b *testing.B) {
	server := girdertest.New(b, girdertest.Config{})
	user := server.AddUser(false)
	item := server.AddItem(server.AddFolder(user, "f"), "i")
	id := server.AddContent(item, "big", zeros{}, 64<<20)
	c, err := girder.New(girder.Config{API: server.API(), Token: server.AddToken(user)})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	f, err := c.File(b.Context(), id)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(64 << 20)
	for b.Loop() {
		d, err := c.Download(b.Context(), f)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{d}); n != 64<<20 || err != nil {
			b.Fatal(n, err)
		}
		d.Close()
	}
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// BenchmarkPlainGet is what net/http alone does with the same file.
func BenchmarkPlainGet(b *testing.B) {
	server := girdertest.New(b, girdertest.Config{})
	user := server.AddUser(false)
	item := server.AddItem(server.AddFolder(user, "f"), "i")
	id := server.AddContent(item, "big", zeros{}, 64<<20)
	request, err := http.NewRequest(http.MethodGet, server.API()+"/file/"+id+"/download", nil)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Girder-Token", server.AddToken(user))
	b.SetBytes(64 << 20)
	for b.Loop() {
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{response.Body}); n != 64<<20 || err != nil {
			b.Fatal(n, err)
		}
		response.Body.Close()
	}
}
