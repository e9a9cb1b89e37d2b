package celerytest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// module is a worker's: docker_run without Docker, which notes where it begins and
// ends. Acknowledgement and prefetch are as Girder Worker has them: Celery's defaults.
const module = `
import os, time
from celery import Celery
app = Celery('girder_worker', broker=os.environ['BROKER'], backend='rpc://')
app.conf.update(accept_content=['json'], task_serializer='json', result_serializer='json')
def note(text):
    fd = os.open(os.environ['NOTES'], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, text.encode())
    os.close(fd)
@app.task(name='girder_worker.docker.tasks.docker_run', bind=True)
def docker_run(self, *args, **kwargs):
    note('begin %s\n' % self.request.id)
    time.sleep(0.2)
    note('end %s\n' % self.request.id)
`

// Worker is a real Celery worker in Python, with a pool of two processes, that takes
// tasks named as docker_run is.
type Worker struct {
	t     testing.TB
	notes string
	cmd   *exec.Cmd
	ended sync.Once
	log   bytes.Buffer // read after its end
}

// Worker starts one of that node name. It is gone when the test ends.
func (c *Client) Worker(t testing.TB, node string) *Worker {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain.py"), []byte(module), 0o644); err != nil {
		t.Fatal(err)
	}
	w := &Worker{t: t, notes: filepath.Join(dir, "notes")}
	w.cmd = exec.Command(c.python, "-m", "celery", "-A", "plain", "worker", "-c", "2", "-n", node)
	w.cmd.Dir = dir
	w.cmd.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "BROKER=" + c.broker, "NOTES=" + w.notes, "HOME=/nonexistent", "PYTHONDONTWRITEBYTECODE=1"}
	w.cmd.Stdout, w.cmd.Stderr = &w.log, &w.log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Kill)
	return w
}

// Retire has it finish what it has begun, give back what it has not, and end.
func (w *Worker) Retire() { w.end(func() { w.cmd.Process.Signal(syscall.SIGTERM) }) }

// Kill ends it and its pool at once.
func (w *Worker) Kill() { w.end(func() { syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) }) }

func (w *Worker) end(tell func()) {
	w.ended.Do(func() {
		tell()
		w.cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("the Python worker said:\n%s", w.log.String())
		}
	})
}

// Notes are how often each task began and ended there.
func (w *Worker) Notes() (begun, ended map[string]int) {
	w.t.Helper()
	begun, ended = map[string]int{}, map[string]int{}
	text, err := os.ReadFile(w.notes)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "begin":
			begun[id]++
		case "end":
			ended[id]++
		}
	}
	return begun, ended
}
