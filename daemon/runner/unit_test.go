package runner

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/sandbox/image"
	"girderworker/transforms"
)

func TestCommand(t *testing.T) {
	type list = []string
	for _, test := range []struct {
		entrypoint, args, imageEntrypoint, imageCmd, want list
	}{
		{nil, nil, list{"e"}, list{"c"}, list{"e", "c"}},
		{nil, list{"a"}, list{"e"}, list{"c"}, list{"e", "a"}},
		{nil, list{}, list{"e"}, list{"c"}, list{"e"}},
		{list{"E"}, nil, list{"e"}, list{"c"}, list{"E"}},
		{list{"E"}, list{"a"}, list{"e"}, list{"c"}, list{"E", "a"}},
		{list{}, list{"a"}, list{"e"}, list{"c"}, list{"a"}},
		{nil, nil, nil, list{"c"}, list{"c"}},
		{nil, nil, nil, nil, nil},
		{list{}, nil, list{"e"}, list{"c"}, nil},
		{nil, list{""}, nil, nil, nil},
	} {
		got, err := command(&transforms.Plan{Entrypoint: test.entrypoint, Args: test.args},
			&image.Config{Entrypoint: test.imageEntrypoint, Cmd: test.imageCmd})
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%+v: %v, %v", test, got, err)
		}
	}
}

func TestEnvironmentOrder(t *testing.T) {
	p := &transforms.Plan{
		Env:     []string{"B=job", "HOME=/mine", "EMPTY="},
		Streams: []transforms.Stream{{Name: "p", Kind: transforms.StreamProgress, Path: "/pipes/p"}},
	}
	got := environment(p, &image.Config{Env: []string{"A=image", "B=image", "A=again", "junk", "=x"}}, "host", "/root")
	want := []string{"PATH=" + defaultPath, "HOSTNAME=host", "HOME=/mine", "A=again", "B=job", "GIRDER_WORKER_PROGRESS=/pipes/p", "EMPTY="}
	if !slices.Equal(got, want) {
		t.Errorf("environment is %q\nwant %q", got, want)
	}
}

func TestResolveUser(t *testing.T) {
	config := &image.Config{
		Users: []image.User{
			{Name: "root", UID: 0, GID: 0, Home: "/root"},
			{Name: "lab", UID: 1000, GID: 1001, Home: "/home/lab"},
			{Name: "42", UID: 7, GID: 7},
		},
		Groups: []image.Group{
			{Name: "lab", GID: 1001},
			{Name: "audio", GID: 29, Members: []string{"lab", "other"}},
			{Name: "video", GID: 44, Members: []string{"root"}},
		},
	}
	for _, test := range []struct {
		in   string
		want containerUser
		bad  bool
	}{
		{"", containerUser{0, 0, []int{44}, "/root"}, false},
		{"lab", containerUser{1000, 1001, []int{29}, "/home/lab"}, false},
		{"1000", containerUser{1000, 1001, []int{29}, "/home/lab"}, false},
		{"lab:audio", containerUser{1000, 29, nil, "/home/lab"}, false},
		{"lab:5", containerUser{1000, 5, nil, "/home/lab"}, false},
		{"5:6", containerUser{5, 6, nil, "/"}, false},
		{"5", containerUser{5, 0, nil, "/"}, false},
		{"42", containerUser{7, 7, nil, "/"}, false},
		{"nobody", containerUser{}, true},
		{"lab:none", containerUser{}, true},
		{"-1", containerUser{}, true},
		{"99999999999", containerUser{}, true},
	} {
		got, err := resolveUser(test.in, config)
		if (err != nil) != test.bad || !test.bad && !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: %+v, %v, want %+v", test.in, got, err, test.want)
		}
	}
}

// TestKeepID: host and container id meet, and exactly the ids that were mapped
// still are, each once.
func TestKeepID(t *testing.T) {
	grant := []sandbox.IDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 200000, Size: 26}, {ContainerID: 27, HostID: 27, Size: 1}, {ContainerID: 28, HostID: 200028, Size: 100}}
	all := func(mappings []sandbox.IDMapping) map[int]int {
		m := map[int]int{}
		hosts := map[int]bool{}
		for _, r := range mappings {
			for i := range r.Size {
				if _, twice := m[r.ContainerID+i]; twice || hosts[r.HostID+i] {
					t.Fatalf("%v maps an id twice", mappings)
				}
				m[r.ContainerID+i] = r.HostID + i
				hosts[r.HostID+i] = true
			}
		}
		return m
	}
	before := all(grant)
	for container := range before {
		got := all(keepID(grant, container, 1000))
		if got[container] != 1000 || len(got) != len(before) {
			t.Errorf("container id %d is %d on the host, of %d ids", container, got[container], len(got))
		}
		for id, host := range before {
			if id != 0 && id != container && got[id] != host {
				t.Errorf("with container id %d, %d moved from %d to %d", container, id, host, got[id])
			}
		}
	}
	for _, outside := range []int{5000, -1} {
		if got := keepID(grant, outside, 1000); !slices.Equal(got, grant) {
			t.Errorf("an id that is not mapped changed the mapping: %v", got)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "SIGTERM": 15, "quit": 3, "9": 9, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64,
		"SIGNOPE": -1, "0": -1, "65": -1, "SIGRTMIN+31": -1, "SIGRTMIN+-1": -1,
	} {
		got, err := parseSignal(in)
		if want < 0 != (err != nil) || err == nil && got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
}

func TestProgressLines(t *testing.T) {
	for _, test := range []struct {
		name    string
		writes  []string
		want    attempt.Progress // told last; Total -1 is nothing told
		skipped int64
	}{
		{"whole", []string{`{"total":10,"current":2,"message":"x"}` + "\n"}, attempt.Progress{Total: 10, Current: 2, Message: "x"}, 0},
		{"in pieces", []string{`{"tot`, `al":10,"curr`, "ent\":2}\n{\"current\"", ":3}\n"}, attempt.Progress{Total: 10, Current: 3}, 0},
		{"without its newline", []string{`{"current":5}`}, attempt.Progress{Current: 5}, 0},
		{"bad between", []string{"{\"current\":1}\nnot json\n[1]\nnull\n3\n{\"current\":1e999}\n\n{\"current\":2}\n"}, attempt.Progress{Current: 2}, 5},
		{"too long", []string{strings.Repeat("x", maxProgressLine), "y", "\n{\"current\":7}\n"}, attempt.Progress{Current: 7}, 1},
		{"long message", []string{`{"message":"` + strings.Repeat("é", 2000) + "\"}\n"}, attempt.Progress{Message: strings.Repeat("é", maxMessageText/2)}, 0},
		{"nothing", []string{""}, attempt.Progress{Total: -1}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			last := attempt.Progress{Total: -1}
			p := newProgressLines(func(now attempt.Progress) { last = now })
			for _, text := range test.writes {
				if n, err := p.Write([]byte(text)); n != len(text) || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
			}
			p.flush()
			if last != test.want || p.skipped != test.skipped {
				t.Errorf("told %+v, %d skipped; want %+v, %d", last, p.skipped, test.want, test.skipped)
			}
		})
	}
}

// TestProgressBursts: of many lines few are told, the last among them, and
// also without a flush.
func TestProgressBursts(t *testing.T) {
	var mu sync.Mutex
	var told []float64
	last := make(chan struct{})
	p := newProgressLines(func(now attempt.Progress) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, now.Current)
		if now.Current == 999 {
			close(last)
		}
	})
	for i := range 1000 {
		fmt.Fprintf(p, "{\"current\":%d}\n", i)
	}
	<-last
	mu.Lock()
	defer mu.Unlock()
	if told[0] != 0 || len(told) > 20 {
		t.Errorf("told %v", told)
	}
}

// TestOutputArrival: what lies in both pipes is read in the order of its
// arrival, whichever pipe came first.
func TestOutputArrival(t *testing.T) {
	for _, order := range [][]int{{0, 1}, {1, 0}} {
		dir := testAttempt(t)
		log := dir.NewLogWriter(1<<20, os.Getgid())
		o, err := newOutput(log)
		if err != nil {
			t.Fatal(err)
		}
		copied := make(chan error)
		go func() { copied <- o.copy() }()
		for _, i := range order {
			fmt.Fprintf(o.pipes[i].w, "%d", i)
		}
		o.started() // closes the last writers
		if err := <-copied; err != nil {
			t.Fatal(err)
		}
		o.close()
		log.Close()
		r, err := dir.Log(0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range order {
			rec, err := r.Next()
			if err != nil || rec.Stream != o.pipes[i].stream || string(rec.Data) != strconv.Itoa(i) {
				t.Errorf("order %v: record %+v, %v", order, rec, err)
			}
		}
		r.Close()
	}
}

// TestOutputHeldOpen: a process outside the container that has the pipe cannot
// keep the attempt waiting.
func TestOutputHeldOpen(t *testing.T) {
	dir := testAttempt(t)
	log := dir.NewLogWriter(1<<20, os.Getgid())
	o, err := newOutput(log)
	if err != nil {
		t.Fatal(err)
	}
	defer o.close()
	if last := o.lastOutput(); last == last.Round(0) {
		t.Error("who sets the machine's clock has jobs end that are not idle")
	}
	if _, err := o.pipes[0].w.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	copied := make(chan error)
	go func() { copied <- o.copy() }()
	// As ended does, with less patience.
	if err := o.epoll.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := <-copied; err == nil {
		t.Error("the copying ended well")
	}
	if kept, _, err := log.Close(); kept != 10 || err != nil {
		t.Errorf("%d bytes kept, %v", kept, err)
	}
}

// TestOutputDrained: what was written before drain is kept, whoever holds the pipes open
// and goes on to write.
func TestOutputDrained(t *testing.T) {
	for _, flood := range []bool{false, true} {
		dir := testAttempt(t)
		log := dir.NewLogWriter(1<<30, os.Getgid())
		o, err := newOutput(log)
		if err != nil {
			t.Fatal(err)
		}
		copied := make(chan error)
		go func() { copied <- o.copy() }()
		fmt.Fprint(o.pipes[0].w, "first")
		fmt.Fprint(o.pipes[1].w, "last words")
		flooded := make(chan struct{})
		if flood {
			go func() {
				defer close(flooded)
				for i := 0; i < 1000; i++ {
					if _, err := o.pipes[0].w.Write(make([]byte, 4096)); err != nil {
						return
					}
				}
			}()
		}
		o.drain()
		if err := <-copied; err != nil {
			t.Errorf("flood %v: %v", flood, err)
		}
		kept, _, err := log.Close()
		if err != nil || kept < 15 || !flood && kept != 15 {
			t.Errorf("flood %v: %d bytes kept, %v", flood, kept, err)
		}
		for i := range o.pipes { // the writer finds nobody who reads
			unix.Close(o.pipes[i].fd)
			o.pipes[i].fd = -1
		}
		if flood {
			<-flooded
		}
		o.close()
	}
}

// TestCallReceive: what comes back of a function, of which nothing need be true.
func TestCallReceive(t *testing.T) {
	huge := strings.Repeat("x", attempt.MaxResult)
	for name, c := range map[string]struct {
		sent   string
		closed bool // the socket, afterwards
		result string
		status int // -1: none
		err    string
	}{
		"both lines":           {"{}\n0\n", false, "{}", 0, ""},
		"failed":               {"{}\n1\n", false, "{}", 1, ""},
		"more than that":       {"{}\n0\n{}\n1\n", false, "{}", 0, ""},
		"the longest":          {huge + "\n255\n", false, huge, 255, ""},
		"no status":            {"{}\n", true, "{}", -1, ""},
		"half a status":        {"{}\n0", true, "{}", -1, ""},
		"no number":            {"{}\nx\n", true, "{}", -1, ""},
		"not a status":         {"{}\n256\n", true, "{}", -1, ""},
		"negative":             {"{}\n-1\n", true, "{}", -1, ""},
		"half a line":          {"{", true, "{", -1, ""},
		"nothing":              {"", true, "", -1, ""},
		"too long":             {huge + "x\n0\n", true, "", -1, "returned more than 1.0 MiB"},
		"too long for a line":  {huge + huge, true, "", -1, "returned more than 1.0 MiB"},
		"a status without end": {"{}\n" + huge, true, "{}", -1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			call, err := newCall(&transforms.Python{})
			if err != nil {
				t.Fatal(err)
			}
			defer call.close()
			call.start(nil, func() {})
			if _, err := call.theirs.WriteString(c.sent); err != nil {
				t.Fatal(err)
			}
			if c.closed {
				call.theirs.Close()
			} else {
				defer call.theirs.Close()
			}
			result, err := call.end()
			if string(result) != c.result || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d bytes, %v", len(result), err)
			}
			select {
			case status := <-call.over:
				if status != c.status {
					t.Errorf("status %d, want %d", status, c.status)
				}
			default:
				if c.status >= 0 {
					t.Error("no status")
				}
			}
		})
	}
}

// TestCallStart: what a function is called with arrives whole, however much it is and
// whenever it is read.
func TestCallStart(t *testing.T) {
	for name, with := range map[string]string{"nothing": "", "little": "{}", "more than a socket takes": strings.Repeat("x", 4<<20)} {
		t.Run(name, func(t *testing.T) {
			call, err := newCall(&transforms.Python{})
			if err != nil {
				t.Fatal(err)
			}
			defer call.close()
			defer call.theirs.Close()
			call.start([]byte(with), func() {}) // nobody reads yet
			got, err := io.ReadAll(call.theirs)
			if _, rest, _ := strings.Cut(string(got), "\n"); rest != with || err != nil {
				t.Errorf("%d bytes of %d, %v", len(rest), len(with), err)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		call, err := newCall(&transforms.Python{})
		if err != nil {
			t.Fatal(err)
		}
		defer call.close()
		call.theirs.Close()
		call.start([]byte("{}"), func() {})
		if result, err := call.end(); len(result) > 0 || err != nil {
			t.Errorf("%q, %v", result, err)
		}
	})
}

func testAttempt(t *testing.T) attempt.Dir {
	t.Helper()
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "jobs"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := attempt.NewDir(state, "j", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Create(os.Getgid()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStopper(t *testing.T) {
	s := newStopper()
	defer s.close()
	first := &stopReason{outcome: attempt.OutcomeCanceled, text: "first", grace: time.Minute}
	s.stop(first)
	<-s.changed
	if <-s.ctx.Done(); s.ctx.Err() == nil {
		t.Error("the preparation goes on")
	}
	for _, step := range []struct{ grace, want time.Duration }{
		{2 * time.Minute, time.Minute}, // not longer
		{time.Second, time.Second},
		{0, time.Second}, // the plan's is not known to be shorter
		{-1, -1},
		{time.Hour, -1},
	} {
		s.stop(&stopReason{outcome: attempt.OutcomeTimeout, text: "later", grace: step.grace})
		<-s.changed
		reason, grace := s.reason()
		if reason != first || grace != step.want {
			t.Errorf("after grace %v: reason %v, grace %v, want %v", step.grace, reason, grace, step.want)
		}
	}
}

// TestTransferIsHarmless looks at the process that holds the submitter's files.
func TestTransferIsHarmless(t *testing.T) {
	tr, err := startTransfer(attempt.Identity{UID: submitter, GID: group, Groups: []int{group, 27}}, &attempt.Grant{Roots: everywhere})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.end()
	// An answer shows that it has begun.
	f, err := tr.openBind(t.Context(), transforms.Bind{Source: "/etc"})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tr.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	id := func(n int) string { return strings.Repeat(fmt.Sprintf("\t%d", n), 4) }
	for _, want := range []string{
		"Uid:" + id(submitter), "Gid:" + id(group), fmt.Sprintf("Groups:\t27 %d ", group), "NoNewPrivs:\t1",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000",
	} {
		if !bytes.Contains(status, []byte(want+"\n")) {
			t.Errorf("its status has no line %q", want)
		}
	}
	// The submitter's other processes cannot look into it: it is root's to debug.
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/mem", tr.process.Pid), &st); err != nil || st.Uid != 0 {
		t.Errorf("its memory belongs to %d, %v", st.Uid, err)
	}
	session, err := unix.Getsid(tr.process.Pid)
	if err != nil || session != tr.process.Pid {
		t.Errorf("its session is %d, %v", session, err)
	}
	// This process is as it was.
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(own, []byte("NoNewPrivs:\t0\n")) {
		t.Error("starting it changed the runner")
	}
}

// TestTransferEnds with its runner's socket.
func TestTransferEnds(t *testing.T) {
	tr, err := startTransfer(attempt.Identity{UID: submitter, GID: group}, &attempt.Grant{Roots: everywhere})
	if err != nil {
		t.Fatal(err)
	}
	tr.wire.close()
	<-tr.process.gone
}

// TestHostileTransfer: what the process says is bounded and believed of the
// submitter's streams only.
func TestHostileTransfer(t *testing.T) {
	var got []attempt.Progress
	tr := &transfer{
		streams:    []transforms.Stream{{Name: "in", Kind: transforms.StreamInput}},
		results:    map[string]attempt.StreamResult{},
		onProgress: func(p attempt.Progress) { got = append(got, p) },
		onActivity: func() {},
		onBroken:   func(string, string) {},
	}
	sum := strings.Repeat("00", 32)
	for _, m := range []message{
		{Op: opProgress},
		{Op: opProgress, Progress: &attempt.Progress{Message: strings.Repeat("\xff", 1<<20)}},
		{Op: opBroken},
		{Op: opResult},
		{Op: opResult, Result: &attempt.StreamResult{Name: "other", SHA256: sum}},
		{Op: opResult, Result: &attempt.StreamResult{Name: "in", SHA256: "zz"}},
		{Op: opResult, Result: &attempt.StreamResult{Name: "in", SHA256: sum, Bytes: -1}},
		{Op: "nonsense"},
	} {
		tr.hear(m)
	}
	if len(got) != 1 || len(got[0].Message) > maxMessageText {
		t.Errorf("progress %+v", got)
	}
	if len(tr.results) != 0 {
		t.Errorf("results %+v", tr.results)
	}
	tr.hear(message{Op: opResult, Result: &attempt.StreamResult{Name: "in", Kind: "lie", SHA256: sum, Bytes: 5, Error: strings.Repeat("x", 1<<20)}})
	if r := tr.results["in"]; r.Kind != transforms.StreamInput || r.Bytes != 5 || len(r.Error) > maxMessageText {
		t.Errorf("result %+v", r)
	}
}

func TestWire(t *testing.T) {
	ours, theirs, err := wirePair()
	if err != nil {
		t.Fatal(err)
	}
	other := newWire(theirs)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ours.send(message{Op: opBind, Bind: &transforms.Bind{Source: "/x"}}, f); err != nil {
		t.Fatal(err)
	}
	m, with, err := other.receive()
	if err != nil || with == nil || m.Op != opBind || m.Bind.Source != "/x" {
		t.Fatalf("received %+v, %v, %v", m, with, err)
	}
	with.Close()
	if err := ours.send(message{Op: strings.Repeat("x", maxMessage)}, nil); err == nil {
		t.Error("a message that is too long was sent")
	}
	if err := unix.Sendmsg(int(ours.f.Fd()), bytes.Repeat([]byte(" "), maxMessage+1), nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.receive(); err == nil {
		t.Error("a message that is too long was received")
	}
	ours.close()
	if _, _, err := other.receive(); err == nil {
		t.Error("received from a closed socket")
	}
	other.close()
}
