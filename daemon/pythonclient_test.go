package daemon_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pythonStub stands where the daemon does for the client of contrib/python, and answers
// as a daemon would not, or not often.
type pythonStub struct {
	path string
	// answer is for the n-th request, from 0, of a connection, which stays when it returns true.
	answer func(w io.Writer, r stubRequest) bool

	mu   sync.Mutex
	seen []stubRequest
}

type stubRequest struct {
	conn, n    int
	path, body string
}

// id is the job's.
func (r stubRequest) id() string {
	if _, after, ok := strings.Cut(r.body, `"id":"`); ok {
		id, _, _ := strings.Cut(after, `"`)
		return id
	}
	id, _, _ := strings.Cut(strings.TrimPrefix(r.path, "/v1/jobs/"), "/")
	return id
}

// usual is the answer of a daemon whose jobs return their ids.
func (r stubRequest) usual(w io.Writer) bool {
	code, body := "201 Created", fmt.Sprintf(`{"id":%q}`, r.id())
	if r.body == "" {
		code, body = "200 OK", fmt.Sprintf(`{"id":%q,"state":"SUCCESS","result":%q}`, r.id(), r.id())
	}
	fmt.Fprintf(w, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", code, len(body), body)
	return true
}

func newPythonStub(t testing.TB, answer func(w io.Writer, r stubRequest) bool) *pythonStub {
	t.Helper()
	if _, err := os.Stat(systemPython); err != nil {
		t.Skipf("no Python: %v", err)
	}
	s := &pythonStub{path: filepath.Join(t.TempDir(), "socket"), answer: answer}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { s.serve(conn, n) })
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return s
}

func (s *pythonStub) serve(conn net.Conn, number int) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for n := 0; ; n++ {
		request, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return
		}
		r := stubRequest{conn: number, n: n, path: request.URL.Path, body: string(body)}
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		if !s.answer(conn, r) {
			return
		}
	}
}

// connections is how many requests came over.
func (s *pythonStub) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[int]bool{}
	for _, r := range s.seen {
		all[r.conn] = true
	}
	return len(all)
}

// prompt runs a program that has a task called noop, and returns what it printed.
func (s *pythonStub) prompt(t testing.TB, program string) string {
	t.Helper()
	directory, err := filepath.Abs("../contrib/python")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), systemPython, "-I", "-B", "-X", "dev", "-c", fmt.Sprintf(`
import sys
sys.path[:0] = [%q, %q]
from girder_worker.app import app
from girder_worker.exceptions import WorkerError
@app.task
def noop(*args):
    pass
`, directory+"/worker", directory+"/utils")+program)
	cmd.Env = []string{"GIRDER_WORKER_SOCKET=" + s.path}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the program failed: %v\n%s", err, out)
	}
	return string(out)
}

// interrupt sends SIGALRM to who waits for an answer.
func interrupt(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			_ = unix.Kill(int(peer.Pid), unix.SIGALRM)
		}
	})
}

// TestPythonConnection: what becomes of the connection that the client keeps, and of answers.
func TestPythonConnection(t *testing.T) {
	chunked := func(w io.Writer, body string, parts int) {
		fmt.Fprint(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for part := range slices.Chunk([]byte(body), len(body)/parts+1) {
			fmt.Fprintf(w, "%x;name=value\r\n%s\r\n", len(part), part)
		}
		fmt.Fprint(w, "0\r\nSome: field\r\n\r\n")
	}
	for name, test := range map[string]struct {
		program string
		// answer is nil for the usual ones.
		answer      func(w io.Writer, r stubRequest) bool
		want        string
		connections int
	}{
		"it is kept": {
			program: `
for i in range(20):
    r = noop.delay(i)
    assert r.get() == r.id
print(r.state)`,
			want: "SUCCESS\n", connections: 1},
		"a large result, in pieces": {
			program: `
print(len(noop.delay().get()), noop.delay().get()[:3])`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.body != "" {
					return r.usual(w)
				}
				chunked(w, `{"state":"SUCCESS","result":"`+strings.Repeat("é", 300_000)+`"}`, 7)
				return true
			},
			want: "300000 ééé\n", connections: 1},
		"closed after each answer": {
			program: `
print([noop.delay().get() != '' for i in range(3)])`,
			answer: func(w io.Writer, r stubRequest) bool { r.usual(w); return false },
			want:   "[True, True, True]\n", connections: 6},
		"closed just as it was used": {
			program: `
r = noop.delay()
print(r.get() == r.id, noop.delay().get() != '')`,
			answer: func(w io.Writer, r stubRequest) bool {
				return r.n == 0 && r.usual(w)
			},
			want: "True True\n", connections: 4},
		"announced that it will be closed": {
			program: `
print(noop.delay().get())`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.body != "" {
					return r.usual(w)
				}
				fmt.Fprint(w, "HTTP/1.1 200 OK\r\nCONNECTION: Close\r\n\r\n{\"state\":\"SUCCESS\",\"result\":7}")
				return false
			},
			want: "7\n", connections: 1},
		"a new one is closed": {
			program: `
try:
    noop.delay()
except WorkerError as e:
    print(e.kind, e.away)`,
			answer: func(io.Writer, stubRequest) bool { return false },
			want:   "lost True\n", connections: 1},
		"an answer is cut off": {
			program: `
from girder_worker._client import Client
print(Client().job('x'))
for i in range(3):
    try:
        Client().submit({'id': 'x'})
    except WorkerError as e:
        print(e.kind, str(e).partition(': ')[2])`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.body == "" {
					return r.usual(w)
				}
				fmt.Fprint(w, []string{"HTT", "HTTP/1.1 201 Created\r\nContent", "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"}[r.conn])
				return false
			},
			want:        "{'id': 'x', 'state': 'SUCCESS', 'result': 'x'}\n" + strings.Repeat("lost its answer ended in the middle\n", 3),
			connections: 3},
		"no answer that is one": {
			program: `
from girder_worker._client import Client
for i in range(7):
    try:
        Client().job('x')
    except WorkerError as e:
        print(e.kind, e.away)`,
			answer: func(w io.Writer, r stubRequest) bool {
				fmt.Fprint(w, []string{
					"SSH-2.0-OpenSSH_9.2p1\r\n",
					"HTTP/1.1 abc OK\r\n\r\n",
					"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
					"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
					"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
					"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<16) + "\r\n\r\n",
					"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: x\r\n", 1000) + "\r\n",
				}[r.conn])
				return false
			},
			want: strings.Repeat("bad-answer False\n", 7), connections: 7},
		"a refusal": {
			program: `
for i in range(2):
    try:
        noop.delay()
    except WorkerError as e:
        print(e, e.kind, e.field)`,
			answer: func(w io.Writer, r stubRequest) bool {
				body := `{"error":{"message":"no","kind":"bad-request","field":"args"}}`
				fmt.Fprintf(w, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				return true
			},
			want: "no bad-request args\nno bad-request args\n", connections: 1},
		"a child has its own": {
			program: `
import os
noop.delay().get()
if os.fork() == 0:
    r = noop.delay()
    os._exit(r.get() == r.id)
r = noop.delay()
print(r.get() == r.id, os.waitstatus_to_exitcode(os.wait()[1]))`,
			want: "True 1\n", connections: 2},
		"another user has another": {
			program: `
import os
noop.delay().get()
os.chown(os.environ['GIRDER_WORKER_SOCKET'], 65534, 65534)
os.chmod(os.path.dirname(os.environ['GIRDER_WORKER_SOCKET']), 0o755)
os.setegid(65534)
noop.delay().get()
print('done')`,
			want: "done\n", connections: 2},
		"interrupted": {
			program: `
import os, signal
r = noop.delay('slow')
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    r.get()
except KeyboardInterrupt:
    print('interrupted')
r = noop.delay()
print(r.get() == r.id)`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.conn == 0 && r.n == 1 {
					interrupt(w.(*net.UnixConn))
					_, err := w.(net.Conn).Read(make([]byte, 1)) // until it is gone
					return err == nil
				}
				return r.usual(w)
			},
			want: "interrupted\nTrue\n", connections: 2},
		"no answer in time": {
			program: `
from girder_worker._client import Client
try:
    Client(timeout=0.05).tasks()
except WorkerError as e:
    print(e.kind, str(e).partition(': ')[2])
print(Client().job('a b/é'))`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.path == "/v1/tasks" {
					_, err := w.(net.Conn).Read(make([]byte, 1))
					return err == nil
				}
				body := fmt.Sprintf("%q", r.path)
				fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				return true
			},
			want: "lost timed out\n/v1/jobs/a b/é\n", connections: 2},
		"a result that is never told": {
			program: `
from girder_worker import exceptions, result
result._ANSWER, result._PATIENCE = 0.1, 0.15
r = noop.delay()
r._client.timeout = 1e6 # which get must not wait for
for seconds in 0, 0.1, 0.2:
    try:
        r.get(timeout=seconds)
    except exceptions.TimeoutError as e:
        print(str(e).rpartition(': ')[2], e.__cause__.kind)
result._PATIENCE, result._AWAY, r._client.timeout = 0.01, 0.1, 0.1
try:
    r.get()
except WorkerError as e:
    print(e.kind)`,
			answer: func(w io.Writer, r stubRequest) bool {
				if r.body != "" {
					return r.usual(w)
				}
				_, err := w.(net.Conn).Read(make([]byte, 1))
				return err == nil
			},
			want: strings.Repeat("timed out lost\n", 3) + "lost\n", connections: 5},
		"a daemon that is gone": {
			program: `
import os
from girder_worker import exceptions, result
r = noop.delay()
os.rename(os.environ['GIRDER_WORKER_SOCKET'], os.environ['GIRDER_WORKER_SOCKET'] + '.gone')
from girder_worker import _client
_client._drop()
try:
    r.get(timeout=0.1)
except exceptions.TimeoutError as e:
    print(e.__cause__.kind)
result._AWAY = 0.1
try:
    r.get()
except WorkerError as e:
    print(e.kind)`,
			want: "not-running\nnot-running\n", connections: 1},
		"arguments that the function does not take": {
			program: `
import itertools
from girder_worker.canvas import chain, chord, group
made = []
def task(**options):
    def decorate(function):
        made.append((function, app.task(**options)(function)))
        return made[-1][1]
    return decorate
@task(name='a')
def a(x): return x
@task(name='b')
def b(x, y=1): return x
@task(name='c')
def c(x, *, k): return x
@task(name='d')
def d(x, y, *, k=1): return x
@task(name='e')
def e(x, *rest): return x
@task(name='f')
def f(x=1, **rest): return x
@task(name='g')
def g(x, /, y=2): return x
@task(name='h')
def h(): return 1
@task(name='i', autoretry_for=(OSError,))
def i(x, y=1): return x
class Own(app.Task):
    name = 'own'
    def run(self, x, y=1):
        return x
made.append((lambda x, y=1: x, app.register_task(Own)))
@app.task(bind=True, name='bound')
def bound(self, x, y=1): return x
made.append((lambda x, y=1: x, bound))
for function, t in made:
    for n in range(4):
        for names in itertools.chain.from_iterable(itertools.combinations(['x', 'y', 'k', 'wrong'], n) for n in range(4)):
            args, kwargs = range(n), dict.fromkeys(names, 0)
            try:
                function(*args, **kwargs)
                fits = True
            except TypeError:
                fits = False
            try:
                t.delay(*args, girder_job_title='x', **kwargs)
                taken = True
            except TypeError:
                taken = False
            if fits != taken:
                print(t.name, n, names, fits, taken)
import functools
def injecting(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(None, *args)
    return wrapper
@app.task(name='injected')
@injecting
def injected(connection, x): return x
injected.delay(1)
@app.task(typing=False, name='any')
def anything(x): return x
anything.delay(wrong=1)
print('queued')
def refused(make):
    try:
        make()
    except TypeError as e:
        print(e)
refused(lambda: bound.delay(1, wrong=2))
refused(lambda: h.delay(1))
refused(lambda: a.delay())
refused(lambda: chain(noop.s('not queued'), a.s(2)).delay())
refused(lambda: (noop.s('not queued') | a.si()).delay())
refused(lambda: group(noop.s('not queued'), a.s()).delay())
refused(lambda: chord([noop.s('not queued')], h.s())())
chain(noop.s(), a.s()).delay()
chord([noop.s(), a.s(1)], b.s(y=2))()`,
			want: "queued\nbound(): got an unexpected keyword argument 'wrong'\nh(): too many positional arguments\n" +
				"a(): missing a required argument: 'x'\na(): too many positional arguments\na(): missing a required argument: 'x'\n" +
				"a(): missing a required argument: 'x'\nh(): too many positional arguments\n"},
		"many threads": {
			program: `
import threading
wrong = []
def calls():
    for i in range(10):
        r = noop.delay(i)
        if r.get() != r.id:
            wrong.append(r.id)
threads = [threading.Thread(target=calls) for i in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(wrong)`,
			want: "[]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.answer == nil {
				test.answer = func(w io.Writer, r stubRequest) bool { return r.usual(w) }
			}
			s := newPythonStub(t, test.answer)
			if got := s.prompt(t, test.program); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
			// A connection that was given up may not be accepted yet.
			for deadline := time.Now().Add(patience); s.connections() < test.connections && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
			connections := s.connections()
			s.mu.Lock()
			defer s.mu.Unlock()
			bodies := map[string]string{}
			for _, r := range s.seen {
				if strings.Contains(r.body, "not queued") {
					t.Errorf("it was queued: %s", r.body)
				}
				if before, ok := bodies[r.id()]; ok && r.body != "" && before != r.body {
					t.Errorf("a call was repeated with another body: %s, %s", before, r.body)
				}
				if r.body != "" {
					bodies[r.id()] = r.body
				}
			}
			if test.connections > 0 && connections != test.connections {
				t.Errorf("%d connections, want %d: %+v", connections, test.connections, s.seen)
			}
		})
	}
}

// BenchmarkPythonClient is what .delay().get() costs its caller, in CPU time: both
// requests, without the daemon.
//
//	go test -tags 'seccomp netgo osusergo' -run '^$' -bench PythonClient ./daemon
func BenchmarkPythonClient(b *testing.B) {
	s := newPythonStub(b, func(w io.Writer, r stubRequest) bool { return r.usual(w) })
	var first, each float64
	n := 0
	for b.Loop() {
		var f, e float64
		if _, err := fmt.Sscan(s.prompt(b, `
import time
begin = time.process_time()
noop.delay().get()
then = time.process_time()
for i in range(1000):
    noop.delay(i).get()
print((then - begin) * 1e3, (time.process_time() - then) * 1e3)`), &f, &e); err != nil {
			b.Fatal(err)
		}
		first, each, n = first+f, each+e, n+1
	}
	b.ReportMetric(first/float64(n), "first-cpu-ms")
	b.ReportMetric(each/float64(n), "cpu-us/call")
}
