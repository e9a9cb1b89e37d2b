package girder_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

// small servers and clients deal in chunks of 1000 bytes.
func smallChunks(c *girder.Config) { c.ChunkSize = 1000 }

var small = girdertest.Config{MinChunk: 1000}

func (w *world) begin(t *testing.T, f girder.NewFile) girder.Upload {
	t.Helper()
	u, done, err := w.c.BeginUpload(t.Context(), f)
	if err != nil || done != nil {
		t.Fatalf("got %+v, %v", done, err)
	}
	return u
}

func (w *world) newFile(n int) girder.NewFile {
	return girder.NewFile{ParentType: "item", ParentID: w.item, Name: "out.bin", Size: int64(n), MimeType: "application/x-lab", Reference: "ref"}
}

// one wants an item to hold one file with these contents, and no upload to be left.
func (w *world) one(t *testing.T, itemID string, data []byte) {
	t.Helper()
	files := w.Files(itemID)
	if len(files) != 1 || !bytes.Equal(files[0].Data, data) {
		t.Errorf("there are %d files", len(files))
		for _, f := range files {
			t.Errorf("%s: %d bytes", f.Name, len(f.Data))
		}
	}
	if n := w.Uploads(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
}

func TestUpload(t *testing.T) {
	for _, n := range []int{1, 999, 1000, 1001, 3500} {
		w := newWorld(t, small, smallChunks)
		data := noise(n)
		u := w.begin(t, w.newFile(n))
		var sent []int64
		f, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(data), func(n int64) { sent = append(sent, n) })
		if err != nil || f.Name != "out.bin" || *f.Size != int64(n) || f.ItemID != w.item || f.MimeType != "application/x-lab" {
			t.Fatalf("%d bytes: got %+v, %v", n, f, err)
		}
		w.one(t, w.item, data)
		if got := w.Files(w.item)[0]; got.Reference != "ref" || got.MimeType != "application/x-lab" {
			t.Errorf("got %q, %q", got.Reference, got.MimeType)
		}
		if len(w.Calls("POST /file/chunk")) != (n+999)/1000 || len(w.Calls("GET /file/offset")) != 0 {
			t.Errorf("%d bytes took %d chunks", n, len(w.Calls("POST /file/chunk")))
		}
		if !slices.IsSorted(sent) {
			t.Errorf("progress is %v", sent)
		}
	}
}

func TestUploadOfNothing(t *testing.T) {
	w := newWorld(t, small)
	for _, fault := range []*girdertest.Fault{nil, fault(girdertest.DropAfter()), fault(girdertest.DropBefore()), fault(girdertest.Garbage()), fault(girdertest.Status(500))} {
		for parent, id := range map[string]string{"item": w.AddItem(w.folder, "empty"), "folder": w.AddFolder(w.folder, fmt.Sprint(w.pauses.count(), time.Now().UnixNano()))} {
			w.Mend()
			if fault != nil {
				w.Fail("POST /file", 1, *fault)
			}
			_, done, err := w.c.BeginUpload(t.Context(), girder.NewFile{ParentType: parent, ParentID: id, Name: "out"})
			if err != nil || done == nil || *done.Size != 0 {
				t.Errorf("%v: got %+v, %v", fault, done, err)
				continue
			}
			if parent == "item" {
				w.one(t, id, nil)
			} else if tree := w.Tree(id); !slices.Equal(tree, []string{"out/", "out/out (0 bytes)"}) {
				t.Errorf("%v: the folder holds %q", fault, tree)
			}
		}
	}
}

func TestReplacement(t *testing.T) {
	w := newWorld(t, small, smallChunks)
	old, err := w.c.File(t.Context(), w.AddFile(w.item, "out.bin", []byte("old contents")))
	if err != nil {
		t.Fatal(err)
	}
	data := noise(2500)
	u, done, err := w.c.BeginReplacement(t.Context(), old, int64(len(data)), "ref")
	if err != nil || done != nil {
		t.Fatal(done, err)
	}
	if got := string(w.Files(w.item)[0].Data); got != "old contents" {
		t.Errorf("the file holds %q before its contents came", got)
	}
	f, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(data), nil)
	if err != nil || f.ID != old.ID {
		t.Fatalf("got %+v, %v", f, err)
	}
	w.one(t, w.item, data)
	if _, done, err := w.c.BeginReplacement(t.Context(), f, 0, ""); err != nil || done == nil || done.ID != old.ID {
		t.Errorf("got %+v, %v", done, err)
	}
	w.one(t, w.item, nil)
}

// Whatever happens to one call, and whether or not the server has carried it out,
// there is one whole file in the end.
func TestUploadGoesOn(t *testing.T) {
	faults := map[string]girdertest.Fault{
		"drop before": girdertest.DropBefore(), "drop after": girdertest.DropAfter(), "garbage": girdertest.Garbage(), "truncate": girdertest.Truncate(30),
		"500": girdertest.Status(500), "503": girdertest.Busy(503, time.Second), "429": girdertest.Status(429), "in the body": girdertest.DropBody(400),
		"hang": girdertest.Hang(), "stall": girdertest.Stall(30),
	}
	const n = 3500
	data := noise(n)
	for name, fault := range faults {
		for _, at := range []struct {
			route string
			skip  int
		}{{"POST /file", 0}, {"POST /file/chunk", 0}, {"POST /file/chunk", 2}, {"POST /file/chunk", 3}} {
			for _, parent := range []string{"item", "folder", "file"} {
				t.Run(fmt.Sprintf("%s at %s %d in %s", name, at.route, at.skip, parent), func(t *testing.T) {
					t.Parallel()
					at := at
					w := newWorld(t, small, smallChunks, func(c *girder.Config) {
						if name == "hang" || name == "stall" {
							c.Stall, c.Timeout = 300*time.Millisecond, 300*time.Millisecond
						}
					})
					var u girder.Upload
					var err error
					if parent == "file" {
						if at.route == "POST /file" {
							at.route = "PUT /file/{id}/contents"
						}
						var old girder.File
						if old, err = w.c.File(t.Context(), w.AddFile(w.item, "out.bin", noise(n))); err != nil {
							t.Fatal(err)
						}
						w.FailAfter(at.route, at.skip, 1, fault)
						u, _, err = w.c.BeginReplacement(t.Context(), old, n, "")
					} else {
						f := w.newFile(n)
						if parent == "folder" {
							f.ParentType, f.ParentID = "folder", w.AddFolder(w.folder, "new")
						}
						w.FailAfter(at.route, at.skip, 1, fault)
						u, _, err = w.c.BeginUpload(t.Context(), f)
					}
					if err != nil {
						t.Fatal(err)
					}
					f, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(data), nil)
					if err != nil {
						t.Fatal(err)
					}
					item := f.ItemID
					files := w.Files(item)
					if len(files) != 1 || !bytes.Equal(files[0].Data, data) || files[0].ID != f.ID {
						t.Errorf("there are %d files", len(files))
					}
					if parent == "folder" {
						if tree := w.Tree(u.ParentID); len(tree) != 2 {
							t.Errorf("the folder holds %q", tree)
						}
					}
					if w.pauses.count() == 0 {
						t.Error("nothing failed")
					}
				})
			}
		}
	}
}

// The process dies at any moment, and another one goes on with what was kept.
func TestUploadGoesOnInAnotherProcess(t *testing.T) {
	const n = 10_000
	data := noise(n)
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := newWorld(t, small, smallChunks)
		f := w.newFile(n)
		inFolder := seed%2 == 1
		if inFolder {
			f.ParentType, f.ParentID = "folder", w.AddFolder(w.folder, "new")
			w.AddItem(f.ParentID, f.Name) // the name is taken
		}
		kept, err := json.Marshal(w.begin(t, f))
		if err != nil {
			t.Fatal(err)
		}
		var last girder.File
		for range 3 {
			// Another process: nothing but what was kept.
			var u girder.Upload
			if err := json.Unmarshal(kept, &u); err != nil {
				t.Fatal(err)
			}
			ctx, kill := context.WithCancel(t.Context())
			dies := r.IntN(n)
			reader := readerAtFunc(func(p []byte, off int64) (int, error) {
				if int(off) > dies {
					kill()
				}
				return bytes.NewReader(data).ReadAt(p, off)
			})
			w.FailAfter("POST /file/chunk", r.IntN(12), 1, girdertest.DropAfter())
			if got, err := w.c.SendUpload(ctx, u, reader, nil); err == nil {
				last = got
			}
			kill()
		}
		w.Mend()
		var u girder.Upload
		if err := json.Unmarshal(kept, &u); err != nil {
			t.Fatal(err)
		}
		got, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(data), nil)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if last.ID != "" && got.ID != last.ID {
			t.Errorf("seed %d: file %s became %s", seed, last.ID, got.ID)
		}
		w.one(t, got.ItemID, data)
		if inFolder {
			if tree := w.Tree(f.ParentID); len(tree) != 3 {
				t.Errorf("seed %d: the folder holds %q", seed, tree)
			}
		}
	}
}

type readerAtFunc func([]byte, int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// All bytes arrived, but the server died before it made a file of them.
func TestUploadThatNeedsCompletion(t *testing.T) {
	w := newWorld(t, small, smallChunks)
	data := noise(1000)
	u := w.begin(t, w.newFile(1000))
	w.Fail("POST /file/chunk", 1, girdertest.DropBody(1000))
	w.Fail("POST /file/completion", 1, girdertest.DropAfter())
	if _, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(data), nil); err != nil {
		t.Fatal(err)
	}
	if len(w.Calls("POST /file/completion")) != 1 {
		t.Error("the upload was not completed")
	}
	w.one(t, w.item, data)
}

func TestUploadFails(t *testing.T) {
	w := newWorld(t, small, smallChunks, func(c *girder.Config) { c.Retry.Attempts = 3 })
	data := noise(2500)
	send := func(u girder.Upload, content io.ReaderAt) error {
		_, err := w.c.SendUpload(t.Context(), u, content, nil)
		return err
	}

	u := w.begin(t, w.newFile(2500))
	if err := send(u, bytes.NewReader(data[:2400])); !errors.Is(err, girder.ErrContents) || !strings.Contains(err.Error(), "100 bytes are missing") {
		t.Errorf("short contents: got %v", err)
	}
	broken := errors.New("the disk is broken")
	if err := send(u, readerAtFunc(func([]byte, int64) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Errorf("unreadable contents: got %v", err)
	}
	w.Fail("POST /file/chunk", -1, girdertest.Status(500))
	before := w.pauses.count()
	other := w.begin(t, w.newFile(2500))
	if err := send(other, bytes.NewReader(data)); err == nil || w.pauses.count()-before != 2+2 { // and one each time it asks for the offset
		t.Errorf("a server that stays broken: got %v after %d pauses", err, w.pauses.count()-before)
	}
	w.Mend()
	w.Fail("POST /file/chunk", 1, girdertest.Status(403))
	if err := send(u, bytes.NewReader(data)); !errors.Is(err, girder.ErrDenied) {
		t.Errorf("no permission: got %v", err)
	}
	if err := w.c.CancelUpload(t.Context(), other); err != nil {
		t.Error(err)
	}
	if err := w.c.CancelUpload(t.Context(), u); err != nil || w.Uploads() != 0 {
		t.Errorf("got %v", err)
	}
	if err := w.c.CancelUpload(t.Context(), u); err != nil {
		t.Errorf("a canceled upload: got %v", err)
	}
	if err := send(u, bytes.NewReader(data)); !errors.Is(err, girder.ErrNoSuch) || !strings.Contains(err.Error(), "there is no such file") {
		t.Errorf("a canceled upload: got %v", err)
	}
	if files := w.Files(w.item); len(files) != 0 {
		t.Errorf("%d files came of it", len(files))
	}

	for _, bad := range []girder.NewFile{
		{ParentType: "collection", ParentID: w.item, Name: "x"}, {ParentType: "item", ParentID: "x", Name: "x"}, {ParentType: "item", ParentID: w.item, Name: "x", Size: -1},
		{ParentType: "item", ParentID: nobody, Name: "x", Size: 1}, {ParentType: "item", ParentID: w.item, Size: 1},
	} {
		if _, _, err := w.c.BeginUpload(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if w.Uploads() != 0 {
		t.Errorf("%d uploads are left", w.Uploads())
	}
}

func TestUploadBelowTheServersChunkSize(t *testing.T) {
	w := newWorld(t, girdertest.Config{MinChunk: 2000}, smallChunks)
	u := w.begin(t, w.newFile(2500))
	if _, err := w.c.SendUpload(t.Context(), u, bytes.NewReader(noise(2500)), nil); err == nil || !strings.Contains(err.Error(), "smaller than the minimum") {
		t.Errorf("got %v", err)
	}
}

func TestUploadWhole(t *testing.T) {
	data := noise(3000)
	for name, fault := range map[string]girdertest.Fault{
		"":            {},
		"drop before": girdertest.DropBefore(), "drop after": girdertest.DropAfter(), "garbage": girdertest.Garbage(), "500": girdertest.Status(500),
		"503": girdertest.Status(503), "truncate": girdertest.Truncate(10), "in the body": girdertest.DropBody(100),
	} {
		w := newWorld(t, small)
		if name != "" {
			w.Fail("POST /file", 1, fault)
		}
		f, err := w.c.UploadWhole(t.Context(), girder.NewFile{ParentType: "folder", ParentID: w.folder, Name: "out.bin", Size: 3000}, bytes.NewReader(data))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if files := w.Files(f.ItemID); len(files) != 1 || !bytes.Equal(files[0].Data, data) {
			t.Errorf("%s: there are %d files", name, len(files))
		}
		if tree := w.Tree(w.folder); len(tree) != 3 {
			t.Errorf("%s: the folder holds %q", name, tree)
		}
	}
	w := newWorld(t, small)
	f := girder.NewFile{ParentType: "folder", ParentID: w.folder, Name: "out.bin", Size: 3000}
	if _, err := w.c.UploadWhole(t.Context(), f, bytes.NewReader(data[:10])); !errors.Is(err, girder.ErrContents) {
		t.Errorf("short contents: got %v", err)
	}
	f.Size = girder.MaxChunkSize + 1
	if _, err := w.c.UploadWhole(t.Context(), f, zeros{}); err == nil {
		t.Error("too much for one call was taken")
	}
}

func BenchmarkUpload(b *testing.B) {
	server := girdertest.New(b, girdertest.Config{})
	user := server.AddUser(false)
	item := server.AddItem(server.AddFolder(user, "f"), "i")
	c, err := girder.New(girder.Config{API: server.API(), Token: server.AddToken(user)})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(64 << 20)
	for b.Loop() {
		u, _, err := c.BeginUpload(b.Context(), girder.NewFile{ParentType: "item", ParentID: item, Name: "x", Size: 64 << 20})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.SendUpload(b.Context(), u, zeros{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
