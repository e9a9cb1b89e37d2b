package api

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"girderworker/queue"
	"girderworker/transforms"
)

const benchDocument = `{"image":"busybox","args":["segment","--input","/data/slide-0001.tif","--threshold","0.35","--output","/data/out/mask.png"],"env":{"OMP_NUM_THREADS":"1"},"name":"segment slide 1"}`

// BenchmarkSubmit compares durable submissions of so many clients at a time
// through the socket with as many writers that commit the same rows directly.
func BenchmarkSubmit(b *testing.B) {
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("direct/%d", clients), func(b *testing.B) {
			w := newWorker(b, nil)
			sub := directSubmission(b)
			share(b, clients, func(next func() bool) error {
				for next() {
					if _, err := w.queue.Submit(b.Context(), sub); err != nil {
						return err
					}
				}
				return nil
			})
		})
		b.Run(fmt.Sprintf("socket/%d", clients), func(b *testing.B) {
			w := newWorker(b, nil)
			share(b, clients, func(next func() bool) error { return submitter(w.socket, next) })
		})
	}
}

// BenchmarkSubmitBatch sends 1,000 jobs a request.
func BenchmarkSubmitBatch(b *testing.B) {
	w := newWorker(b, nil)
	batch := []byte(`{"jobs":[` + benchDocument)
	for range transforms.MaxBatch - 1 {
		batch = append(append(batch, ','), benchDocument...)
	}
	batch = append(batch, "]}"...)
	p := w.person(0)
	b.ResetTimer()
	for i := 0; i < b.N; i += transforms.MaxBatch {
		answer := p.open(b.Context(), "POST", "/v1/jobs", bytes.NewReader(batch), "")
		_, err := io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusCreated {
			b.Fatal(answer.Status, err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

func directSubmission(b *testing.B) queue.Submission {
	f, err := transforms.ParseJobFile([]byte(benchDocument))
	if err != nil {
		b.Fatal(err)
	}
	body := f.AppendJSON(nil)
	hash := sha256.Sum256(body)
	return queue.Submission{
		Source: queue.SourceSocket, Owner: "uid:1000", Identity: queue.Identity{UID: 1000, GID: 1000},
		Name: f.Name, Task: f.Task, Image: f.Image, Needs: queue.Needs{CPUs: 1, Memory: 1 << 30},
		Body: body, BodyHash: hex.EncodeToString(hash[:]),
	}
}

// share divides b.N among so many clients.
func share(b *testing.B, clients int, client func(next func() bool) error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	errs := make(chan error, clients)
	b.ResetTimer()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { errs <- client(func() bool { return left.Add(-1) >= 0 }) })
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
	for range clients {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
}

// submitter speaks HTTP by hand over one connection, so that the figure is the
// server's: Go's own client costs as much as the server does.
func submitter(socket string, next func() bool) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := []byte(fmt.Sprintf("POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(benchDocument), benchDocument))
	r := bufio.NewReader(conn)
	for next() {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		if err := readCreated(r); err != nil {
			return err
		}
	}
	return nil
}

// readCreated reads one answer, which has to be a 201.
func readCreated(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil || !bytes.HasPrefix(line, []byte("HTTP/1.1 201")) {
		return fmt.Errorf("answered %q, %v", line, err)
	}
	length := 0
	for len(line) > 2 {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if _, err := fmt.Sscanf(string(line), "Content-Length: %d", &length); err == nil {
			continue
		}
	}
	_, err = r.Discard(length)
	return err
}
