package runner

import (
	"io"
	"testing"

	"girderworker/transforms"
	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

// zeros is contents without memory.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// BenchmarkGirderStream compares a file that goes from a server into a
// container's pipe, hashed, the whole job, with the client reading and
// dropping it. Compare figures of one run only:
//
//	go test -tags 'seccomp netgo osusergo' -run '^$' -bench GirderStream -benchtime 3x ./daemon/runner
func BenchmarkGirderStream(b *testing.B) {
	const size = 1 << 30
	server := girdertest.New(b, girdertest.Config{})
	user := server.AddUser(true)
	token := server.AddToken(user, girdertest.ScopeRead)
	id := server.AddContent(server.AddItem(server.AddFolder(user, "f"), "i"), "zeros", zeros{}, size)
	b.Run("client", func(b *testing.B) {
		c, err := girder.New(girder.Config{API: server.API(), Token: token})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		b.SetBytes(size)
		for b.Loop() {
			file, err := c.File(b.Context(), id)
			if err != nil {
				b.Fatal(err)
			}
			d, err := c.Download(b.Context(), file)
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, onlyReader{d}, make([]byte, 128<<10)); err != nil || n != size {
				b.Fatal(n, err)
			}
			d.Close()
		}
	})
	b.Run("job", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			w := newWorld(b, "sh", "-c", "cat /in >/dev/null")
			w.request.Resources.CPUs = 2
			w.request.Plan.Girders = []transforms.Girder{{Name: "g", URL: server.API()}}
			if err := w.dir.WriteSecrets(transforms.Secrets{Tokens: map[string]string{"g": token}}); err != nil {
				b.Fatal(err)
			}
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
			p := w.start()
			w.waitQuietly(p)
			exit, err := w.dir.ReadExit()
			if err != nil || exit.Streams[0].Bytes != size || exit.Streams[0].Partial {
				b.Fatalf("%+v, %v", exit, err)
			}
		}
	})
}
