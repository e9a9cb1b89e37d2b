package daemon_test

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"girderworker/transforms/girder/girdertest"
)

// bad is a message that is no task to run, or hardly one, and its end.
type bad struct {
	name   string
	change func(m *amqp091.Publishing, spec amqp091.Table)
	// statuses that Girder sees, and the beginning of what the caller gets as
	// "TYPE: MESSAGE"; "" for null. Rejected messages have neither.
	statuses, result string
	rejected         bool
}

// zeros compressed: 200 MiB in 200 KiB.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 200 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// badInputs is the table of what an existing Girder, an old client or a stranger may
// put into the queue.
func badInputs(t *testing.T, elsewhere *girdertest.Server) []bad {
	const fails = "[2 4]"
	body := func(text string) func(*amqp091.Publishing, amqp091.Table) {
		return func(m *amqp091.Publishing, _ amqp091.Table) { m.Body = []byte(text) }
	}
	header := func(name string, value any) func(*amqp091.Publishing, amqp091.Table) {
		return func(m *amqp091.Publishing, _ amqp091.Table) { m.Headers[name] = value }
	}
	url := func(url string) func(*amqp091.Publishing, amqp091.Table) {
		return func(_ *amqp091.Publishing, spec amqp091.Table) { spec["url"] = url }
	}
	all := []bad{
		{name: "pickle", statuses: fails, result: "ValueError: cannot read the task message: the body is a pickle", change: func(m *amqp091.Publishing, _ amqp091.Table) {
			m.ContentType, m.ContentEncoding, m.Body = "application/x-python-serialize", "binary", []byte("\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.")
		}},
		{name: "YAML", statuses: fails, result: "ValueError: cannot read the task message: ", change: func(m *amqp091.Publishing, _ amqp091.Table) {
			m.ContentType, m.Body = "application/x-yaml", []byte("- [busybox]\n- {}\n- {}\n")
		}},
		{name: "truncated", statuses: fails, result: "ValueError: cannot read the task message: ", change: body(`[["busybox"], {"pull_image": fal`)},
		{name: "empty", statuses: fails, result: "ValueError: cannot read the task message: ", change: body("")},
		{name: "no list", statuses: fails, result: "ValueError: cannot read the task message: ", change: body(`{"a": 1}`)},
		{name: "200 MiB", statuses: fails, result: "ValueError: cannot read the task message: the body has 209715200 bytes, at most 16777216 are allowed", change: func(m *amqp091.Publishing, _ amqp091.Table) {
			m.Body = bytes.Repeat([]byte(" "), 200<<20)
		}},
		{name: "200 MiB without a name", rejected: true, change: func(m *amqp091.Publishing, _ amqp091.Table) {
			delete(m.Headers, "task")
			m.Body = bytes.Repeat([]byte(" "), 200<<20)
		}},
		{name: "zip bomb", statuses: fails, result: "ValueError: cannot read the task message: ", change: func(m *amqp091.Publishing, _ amqp091.Table) {
			m.Headers["compression"], m.Body = "application/x-gzip", bomb(t)
		}},
		{name: "deep", statuses: fails, result: "ValueError: cannot read the task message: ", change: body(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000))},
		{name: "deep in args", statuses: fails, result: "ValueError: cannot read the task message: ", change: body(`[["busybox"], {"container_args": ` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}, {}]`)},
		{name: "reduce", statuses: fails, result: "ValueError: cannot read the task message: ", change: body(`[["busybox"], {"container_args": [{"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["true"]}]}]}, {}]`)},
		{name: "unknown task", statuses: fails, result: "NotRegistered: no.such.task", change: header("task", "no.such.task")},
		{name: "expired", statuses: fails, result: "TaskRevokedError: expired", change: header("expires", "2020-01-01T00:00:00+00:00")},
		{name: "expired before its time", statuses: fails, result: "TaskRevokedError: expired", change: func(m *amqp091.Publishing, _ amqp091.Table) {
			m.Headers["eta"], m.Headers["expires"] = "2030-01-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00"
		}},
		{name: "late", statuses: "[2 3]", change: header("eta", "2020-01-01T00:00:00+00:00")},
		{name: "eta that is none", statuses: fails, result: "ValueError: cannot read the task message: ", change: header("eta", "tomorrow")},

		// A Girder that is not there, or does not know us, is told later or never; the task runs.
		{name: "dead URL", change: url("http://127.0.0.1:1/api/v1/job/6b00f6ef4c398922d75c645f")},
		{name: "another host", change: url(elsewhere.API() + "/job/6b00f6ef4c398922d75c645f")},
		{name: "metadata address", change: url("http://169.254.169.254/api/v1/job/6b00f6ef4c398922d75c645f")},
		{name: "no job", result: "ValueError: cannot use ", change: url("http://169.254.169.254/latest/meta-data")},
		{name: "no URL", result: "ValueError: cannot read the task message: ", change: url("file:///etc/passwd")},
		{name: "not allowed", change: func(_ *amqp091.Publishing, spec amqp091.Table) {
			spec["headers"] = amqp091.Table{"Girder-Token": "nobody's"}
		}},
	}
	// Whatever type a header has, it has one of these ends.
	values := map[string]any{"int": int32(7), "text": "x", "table": amqp091.Table{"a": "b"}, "list": []any{int32(1), nil}, "bytes": []byte{0xff, 0}, "bool": true, "float": 1e300}
	for _, name := range []string{
		"lang", "task", "id", "root_id", "parent_id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "argsrepr", "kwargsrepr",
		"origin", "ignore_result", "jobInfoSpec", "girder_api_url", "girder_client_token", "girder_result_hooks", "girder_client_session_kwargs", "apiUrl", "compression", "body_encoding",
	} {
		for kind, value := range values {
			all = append(all, bad{name: "header " + name + " " + kind, change: header(name, value), statuses: "any", result: "any", rejected: name == "task" || name == "id"})
		}
	}
	return all
}

// TestCeleryBadInput: each message that is no task has its end, Girder and the caller
// are told where they can be, and the next task runs.
func TestCeleryBadInput(t *testing.T) {
	w, _, vhost := newCeleryWorld(t, 4)
	g := girdertest.New(t, girdertest.Config{})
	elsewhere := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	p := publish(t, vhost)
	replies, err := p.ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := p.ch.Consume(replies.Name, "", true, true, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]string{} // by correlation id
	w.eventually("it waits for tasks", func() bool { return p.consumers("celery") == 1 })

	all := badInputs(t, elsewhere)
	jobs := map[string]string{}
	for i, b := range all {
		id := fmt.Sprintf("bad-%03d", i)
		job, token := g.AddJob(user, "celery_handler")
		jobs[id] = job
		spec := amqp091.Table{"method": "PUT", "url": g.API() + "/job/" + job, "reference": job, "logPrint": true, "headers": amqp091.Table{"Girder-Token": token}}
		m := message(loadJob{Task: id, Args: []string{"-c", "true"}}, nil)
		m.ReplyTo = replies.Name
		b.change(&m, spec)
		if m.Headers["jobInfoSpec"] == nil {
			m.Headers["jobInfoSpec"] = spec
		}
		p.send(m)
	}
	good := message(loadJob{Task: "good", Args: []string{"-c", "true"}}, nil)
	good.ReplyTo = replies.Name
	p.send(good)
	take := func(a amqp091.Delivery) {
		var r struct {
			Status string
			Result *struct {
				Type    string   `json:"exc_type"`
				Message []string `json:"exc_message"`
			}
		}
		decode(t, a.Body, &r)
		text := r.Status
		if r.Result != nil {
			text = r.Result.Type + ": " + strings.Join(r.Result.Message, " ")
		}
		results[a.CorrelationId] = text
	}
	for results["good"] == "" {
		take(<-answers)
	}
	answered := func() {
		for {
			select {
			case a := <-answers:
				take(a)
			default:
				return
			}
		}
	}
	w.eventually("the queue is empty", func() bool {
		ready, unacked := rabbit.Depth(t, vhost, "celery")
		return ready+unacked == 0
	})
	w.eventually("all that came has ended", func() bool {
		n := w.counts()
		return n["queued"]+n["preparing"]+n["running"]+n["finishing"] == 0
	})
	for i, b := range all {
		id := fmt.Sprintf("bad-%03d", i)
		answered()
		job, err := w.client.Job(t.Context(), id)
		switch {
		case b.rejected && b.result == "any": // an id or a name of another type: whoever it is
			continue
		case b.rejected:
			if err == nil || results[id] != "" {
				t.Errorf("%s: job %+v, result %q", b.name, job, results[id])
			}
			continue
		case err != nil:
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		if b.result == "any" {
			if job.State != "failed" && job.State != "succeeded" {
				t.Errorf("%s: job %+v", b.name, job)
			}
			continue
		}
		want := b.result
		if want == "" {
			want = "SUCCESS"
		}
		w.eventually(b.name+" is answered", func() bool { answered(); return results[id] != "" })
		if !strings.HasPrefix(results[id], want) {
			t.Errorf("%s: the caller got %.300q, want %q", b.name, results[id], want)
		}
		if b.statuses == "" {
			continue
		}
		w.eventually("Girder knows the end of "+b.name, func() bool { s := g.Job(jobs[id]).Status; return s >= 3 && s <= 5 })
		var statuses []int
		for _, s := range g.Job(jobs[id]).Timestamps {
			statuses = append(statuses, s.Status)
		}
		if fmt.Sprint(statuses) != b.statuses {
			t.Errorf("%s: Girder saw %v, want %s", b.name, statuses, b.statuses)
		}
	}
	if most := peak(t, w.front()); most > 200<<20 {
		t.Errorf("the front has taken %d MiB", most>>20)
	} else {
		t.Logf("%d messages; the front took %d MiB at most", len(all)+1, most>>20)
	}
	if log := w.stderr.String(); strings.Contains(log, "panic") {
		t.Errorf("the daemon said:\n%s", log)
	}
}

// peak is the most memory that a process has had at a time, in bytes.
func peak(t *testing.T, p *os.Process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
