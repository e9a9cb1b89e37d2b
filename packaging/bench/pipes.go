package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// pipeSection compares named pipes in, out and both, hashed on the way, with
// processes of cat on as many named pipes, without and with a hash. Files are in
// memory: the disk is not what is compared.
func pipeSection(ctx context.Context, b *bench) error {
	// /dev/shm is the system's own, which jobs may not have.
	dir, err := os.MkdirTemp("", "girder-worker-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
		return fmt.Errorf("cannot mount a file system in memory: %w", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	d, err := newDaemon(ctx, b, "pipes")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	p := &pipes{size: int64(b.n(1024, 64)) << 20, dir: dir, rounds: b.n(5, 1)}
	if err := randomFile(p.path("source"), p.size); err != nil {
		return err
	}
	for _, fifo := range []string{"first", "second"} {
		if err := syscall.Mkfifo(p.path(fifo), 0o666); err != nil {
			return err
		}
	}
	if p.conn, err = d.dial(); err != nil {
		return err
	}
	defer p.conn.Close()

	in := fmt.Sprintf(`"inputs":[{"name":"in","file":%q}]`, p.path("source"))
	out := fmt.Sprintf(`"outputs":[{"name":"out","file":%q}]`, p.path("copied"))
	bind := fmt.Sprintf(`"binds":[{"source":%q,"target":"/source","read_only":true}]`, p.path("source"))
	for _, c := range []struct{ what, document, plain, hashed string }{
		{"file into a container", `{"image":"bench:latest","args":["sh","-c","cat {in} >/dev/null"],` + in + `}`,
			`$cat source >first & $cat first >/dev/null`,
			`$cat source | $tee first | $sum & $cat first >/dev/null`},
		{"file out of a container", `{"image":"bench:latest","args":["sh","-c","cat /source >{out}"],` + bind + `,` + out + `}`,
			`$cat source >first & $cat first >copied`,
			`$cat source >first & $cat first | $tee copied | $sum`},
		{"file through a container", `{"image":"bench:latest","args":["sh","-c","cat {in} >{out}"],` + in + `,` + out + `}`,
			`$cat source >first & $cat first >second & $cat second >copied`,
			`$cat source | $tee first | $sum & $cat first >second & $cat second | $tee copied | $sum`},
	} {
		if err := p.compare(ctx, b, c.what, c.document, []reference{
			{0.9, "cat through FIFOs", func() error { return p.shell(ctx, c.plain) }},
			{0.9, "cat through FIFOs with tee and openssl's SHA-256", func() error { return p.shell(ctx, c.hashed) }},
		}); err != nil {
			return err
		}
	}
	return p.fromHTTP(ctx, b)
}

// fromHTTP compares a file of Girder that goes into a container with a client that
// reads it from the same server, without and with a hash.
func (p *pipes) fromHTTP(ctx context.Context, b *bench) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	const id = "0123456789abcdef01234567"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/file/"+id, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"_id":%q,"_modelType":"file","name":"source","size":%d,"itemId":%q}`, id, p.size, id)
	})
	mux.HandleFunc("GET /api/v1/file/"+id+"/download", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		f, err := os.Open(p.path("source"))
		if err != nil {
			http.Error(w, "gone", http.StatusInternalServerError)
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", strconv.FormatInt(p.size, 10))
		io.Copy(w, f) // with sendfile, so that the server is no part of the figure
	})
	server := &http.Server{Handler: mux}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { server.Close(); <-served }()
	api := "http://" + listener.Addr().String() + "/api/v1"

	read := func(hashed bool) func() error {
		return func() error {
			request, err := http.NewRequestWithContext(ctx, "GET", api+"/file/"+id+"/download", nil)
			if err != nil {
				return err
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			var to io.Writer = struct{ io.Writer }{io.Discard}
			if hashed {
				to = struct{ io.Writer }{sha256.New()}
			}
			n, err := io.CopyBuffer(to, struct{ io.Reader }{response.Body}, make([]byte, 512<<10))
			if err == nil && n != p.size {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	document := fmt.Sprintf(`{"image":"bench:latest","args":["sh","-c","cat {in} >/dev/null"],"girder":%q,"inputs":[{"name":"in","file_id":%q}]}`, api, id)
	return p.compare(ctx, b, "file of an HTTP server into a container", document, []reference{
		{0.8, "net/http's client", read(false)},
		{0.8, "net/http's client with SHA-256", read(true)},
	})
}

type pipes struct {
	size   int64
	dir    string
	rounds int
	conn   *conn
}

// A reference is what a job is compared with.
type reference struct {
	target float64
	what   string
	run    func() error
}

func (p *pipes) path(name string) string { return filepath.Join(p.dir, name) }

// compare runs a job and its references in turn.
func (p *pipes) compare(ctx context.Context, b *bench, what, document string, references []reference) error {
	runs := []func() error{func() error { return p.conn.runJob(ctx, []byte(document)) }}
	for _, r := range references {
		runs = append(runs, r.run)
	}
	rates := make([][]float64, len(runs))
	for range p.rounds {
		for i, run := range runs {
			t, err := timed(run)
			if err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			rates[i] = append(rates[i], float64(p.size)/1e9/t.Seconds())
			if err := os.Remove(p.path("copied")); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	rate := func(i int) string { return fmt.Sprintf("%.2f GB/s", median(rates[i])) }
	for i, r := range references {
		b.table.atLeast(r.target, what+", hashed, the whole job, against "+r.what, rate(0), rate(i+1), median(rates[0])/median(rates[i+1]))
	}
	return nil
}

// shell runs processes that stand for a job's. cat is the plain one, which reads
// and writes: busybox's asks the kernel to move pages, which nobody can hash on
// the way. openssl, because coreutils' sha256sum does not use the processor's
// instructions.
func (p *pipes) shell(ctx context.Context, script string) error {
	script = "set -e; cat=/bin/cat tee=/usr/bin/tee; sum='openssl dgst -sha256 -out /dev/null'; " + script + "; wait"
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy through a FIFO: %w: %s", err, out)
	}
	return nil
}

func randomFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	rand.Read(block)
	for left := size; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
