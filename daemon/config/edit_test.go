package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// pythonLocal is what the Python worker's own command writes.
const pythonLocal = `[DEFAULT]
rabbitmq_user = guest
rabbitmq_pass = sesame
rabbitmq_host = localhost

[celery]
app_main = girder_worker
# whose broker
broker = amqp://%(RABBITMQ_USER)s:%(RABBITMQ_PASS)s@%(RABBITMQ_HOST)s/
backend = rpc://guest:guest@localhost/

[girder_worker]
tmp_root = tmp

[logging]
level = info
format = [%%(asctime)s] %%(levelname)s:
	%%(message)s

`

func localFile(t *testing.T, text string) (Sources, string) {
	t.Helper()
	main := filepath.Join(t.TempDir(), "worker.cfg")
	write(t, main, "[girder_worker]\nmax_queue = 7\n")
	local := Sources{File: main}.Files()[1]
	if text != "" {
		write(t, local, text)
	}
	return Sources{File: main}, local
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSetKeepsTheRest(t *testing.T) {
	for _, tt := range []struct{ section, name, value, from, to string }{
		{"girder_worker", "slots", "3", "tmp_root = tmp\n", "tmp_root = tmp\nslots = 3\n"},
		{"Celery", "BROKER", "amqp://h/", "broker = amqp://%(RABBITMQ_USER)s:%(RABBITMQ_PASS)s@%(RABBITMQ_HOST)s/", "broker = amqp://h/"},
		{"logging", "format", "x", "format = [%%(asctime)s] %%(levelname)s:\n\t%%(message)s\n", "format = x\n"},
		{"limits", "memory", "2g", "%%(message)s\n\n", "%%(message)s\n\n[limits]\nmemory = 2g\n"},
		{"DEFAULT", "rabbitmq_port", "5672", "rabbitmq_host = localhost\n", "rabbitmq_host = localhost\nrabbitmq_port = 5672\n"},
		{"celery", "concurrency", "4", "guest@localhost/\n", "guest@localhost/\nconcurrency = 4\n"},
	} {
		s, local := localFile(t, pythonLocal)
		c, err := Set(s, tt.section, tt.name, tt.value)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		if got, want := text(t, local), strings.Replace(pythonLocal, tt.from, tt.to, 1); got != want {
			t.Errorf("%s.%s:\n%s\nwant\n%s", tt.section, tt.name, got, want)
		}
		if c.File != local {
			t.Errorf("%+v", c)
		}
		o, err := Get(s, tt.section, tt.name)
		if err != nil || o.Value != tt.value && o.Value != "2GiB" {
			t.Errorf("read back as %+v, %v", o, err)
		}
		// And again changes nothing.
		if c, err := Set(s, tt.section, tt.name, tt.value); err != nil || c.File != "" {
			t.Errorf("set twice: %+v, %v", c, err)
		}
	}
}

// Whatever stands around it, a spelling stays as it is.
func TestSetKeepsTheSpelling(t *testing.T) {
	s, local := localFile(t, "; top\n[Girder_Worker]\n  # in\nSlots:4\n# end\n\n\n[logging]\nlevel=info")
	if _, err := Set(s, "girder_worker", "slots", "5"); err != nil {
		t.Fatal(err)
	}
	if _, err := Set(s, "logging", "output", "json"); err != nil {
		t.Fatal(err)
	}
	if got, want := text(t, local), "; top\n[Girder_Worker]\n  # in\nSlots:5\n# end\n\n\n[logging]\nlevel=info\noutput = json\n"; got != want {
		t.Errorf("%q", got)
	}
}

func TestRemove(t *testing.T) {
	s, local := localFile(t, pythonLocal+"[girder_worker2]\nslotz = 3\n")
	for _, tt := range [][2]string{{"logging", "format"}, {"girder_worker", "tmp_root"}, {"girder_worker2", "slotz"}} {
		if _, err := Remove(s, tt[0], tt[1]); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.NewReplacer("format = [%%(asctime)s] %%(levelname)s:\n\t%%(message)s\n", "", "tmp_root = tmp\n", "").Replace(pythonLocal)
	if got := text(t, local); got != want+"[girder_worker2]\n" {
		t.Errorf("%s", got)
	}
	if c, err := Remove(s, "girder_worker", "slots"); err != nil || c.File != "" {
		t.Errorf("what is not there: %+v, %v", c, err)
	}
	var none NoOption
	if _, err := Remove(s, "girder_worker", "slotz"); !errors.As(err, &none) || !strings.Contains(err.Error(), "girder_worker.slots?") {
		t.Errorf("what nobody knows: %v", err)
	}
	// The other file holds again.
	if _, err := Set(s, "girder_worker", "max_queue", "9"); err != nil {
		t.Fatal(err)
	}
	if c, err := Remove(s, "girder_worker", "max_queue"); err != nil || c.Value != "7" || !strings.HasSuffix(c.Origin, "worker.cfg:2") || !c.Live {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestBadIsNotWritten(t *testing.T) {
	for _, tt := range []struct{ section, name, value, want string }{
		{"girder_worker", "slots", "0", `girder_worker.slots must be a whole number from 1 to 1000, not "0"`},
		{"girder_worker", "slotz", "1", "did you mean girder_worker.slots?"},
		{"celery", "brokr", "x", "did you mean celery.broker?"},
		{"girder_worker", "level", "info", "did you mean logging.level?"},
		{"girder_worker", "id_base", "2147483000", "end beyond"},
		{"girder_worker", "outage", "1h\n[x]", "one line"},
		{"x]\n[y", "a", "b", "no names"},
		{"celery", "x = y\n", "b", "no names"},
		{"celery", "broker", "amqp://%(nobody)s/", "which is set neither"},
		{"celery", "broker", "amqp://%(broker)s/", "or itself"},
		{"celery", "queues", "refused", "is refused"},
	} {
		s, local := localFile(t, pythonLocal)
		s.Check = func(c *Config) (bad Invalid) {
			if c.Celery.Queues == "refused" {
				bad = Invalid{{Key: "celery.queues", Err: errors.New("is refused")}}
			}
			return bad
		}
		if _, err := Set(s, tt.section, tt.name, tt.value); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s.%s = %s: %v", tt.section, tt.name, tt.value, err)
		}
		if text(t, local) != pythonLocal {
			t.Errorf("%s.%s: it was written", tt.section, tt.name)
		}
	}
}

// A file with two mistakes can be put right one by one.
func TestBadBefore(t *testing.T) {
	s, _ := localFile(t, "[girder_worker]\nslots = x\nmax_queue = y\n")
	if _, err := Set(s, "girder_worker", "slots", "2"); err != nil {
		t.Error(err)
	}
	if _, err := Remove(s, "girder_worker", "max_queue"); err != nil {
		t.Error(err)
	}
	if _, err := Options(s); err != nil {
		t.Error(err)
	}
}

func TestOwnerModeAndACLStay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	s, local := localFile(t, "[girder_worker]\n")
	if err := os.Chmod(local, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(local, 12, 34); err != nil {
		t.Fatal(err)
	}
	set := func(value string) (st unix.Stat_t) {
		t.Helper()
		if _, err := Set(s, "girder_worker", "slots", value); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lstat(local, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	if st := set("2"); st.Uid != 12 || st.Gid != 34 || st.Mode&0o777 != 0o640 {
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode&0o777)
	}
	// A new one is the daemon's alone, whose user is a number here.
	if err := os.Remove(local); err != nil {
		t.Fatal(err)
	}
	write(t, s.File, "[girder_worker]\nuser = 4711\n")
	acl := func() string {
		b := make([]byte, 100)
		n, err := unix.Getxattr(local, aclName, b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if st := set("2"); st.Uid != 0 || st.Mode&0o777 != 0o640 { // the group's bits are the mask
		t.Errorf("owner %d:%d, mode %o", st.Uid, st.Gid, st.Mode&0o777)
	}
	first := acl()
	if !strings.Contains(first, "\x02\x00\x04\x00\x67\x12\x00\x00\x04\x00\x00\x00") {
		t.Errorf("acl %x", first)
	}
	set("3")
	if acl() != first {
		t.Error("the access control list is another")
	}
	// A link stays one.
	target := filepath.Join(t.TempDir(), "real.cfg")
	if err := os.Rename(local, target); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, local); err != nil {
		t.Fatal(err)
	}
	if st := set("4"); st.Mode&unix.S_IFMT != unix.S_IFLNK || !strings.Contains(text(t, target), "slots = 4") {
		t.Error("the link was replaced")
	}
}

func TestChangesAtOnce(t *testing.T) {
	s, local := localFile(t, "")
	var all sync.WaitGroup
	names := []string{"slots", "max_queue", "cpus", "id_base"}
	write(t, filepath.Join(filepath.Dir(local), ".worker.cfg-1"), "of one that was killed")
	for _, name := range names {
		all.Go(func() {
			for _, v := range []string{"70000", "66000"} {
				if name == "slots" {
					v = "3"
				}
				if name == "cpus" {
					v = "4"
				}
				if _, err := Set(s, "girder_worker", name, v); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, name := range names {
		if !strings.Contains(text(t, local), name+" = ") {
			t.Errorf("%s was lost", name)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(local), ".worker*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func TestGet(t *testing.T) {
	s, _ := localFile(t, pythonLocal)
	for _, tt := range [][3]string{
		{"celery", "broker", "amqp://guest:sesame@localhost/"},
		{"celery", "app_main", "girder_worker"},
		{"logging", "format", "[%(asctime)s] %(levelname)s:\n%(message)s"},
		{"girder_worker", "user", "girder-worker"},
		{"girder_worker", "slots", ""},
	} {
		if o, err := Get(s, tt[0], tt[1]); err != nil || o.Value != tt[2] {
			t.Errorf("%s.%s: %+v, %v", tt[0], tt[1], o, err)
		}
	}
	// The Python worker's defaults are told when no file has them.
	empty, _ := localFile(t, "")
	if o, err := Get(empty, "celery", "app_main"); err != nil || o.Value != "girder_worker" {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := Get(empty, "celery", "nothing"); err == nil {
		t.Error("what nobody set has a value")
	}
}

// Variables of the message queue's container image stand in for names.
func TestNamesOfValues(t *testing.T) {
	s, _ := localFile(t, strings.ReplaceAll(pythonLocal, "rabbitmq_", "other_"))
	s.Environ = []string{"RABBITMQ_HOST=rabbit.lab", "RABBITMQ_PASS=50%25"}
	c, _, err := Load(s)
	if err != nil || c.Celery.Broker != "amqp://guest:50%25@rabbit.lab/" {
		t.Errorf("%+v, %v", c.Celery, err)
	}
	for in, want := range map[string]string{"100%": "100%", "a%2Fb": "a%2Fb", "%%(x)s": "%(x)s", "%(y)s!": "1!", "%(Y)s%%": "1%"} {
		if got, err := expandValue(in, "s", map[string]string{"s.y": "1"}, new(int)); err != nil || got != want {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
}

func TestMasks(t *testing.T) {
	for in, want := range map[string]string{
		"amqp://u:p@h/v":                      "amqp://u:***@h/v",
		"amqp://u:p/@x@h/v":                   "amqp://u:***@h/v",
		"amqp://u:p;q@h;amqps://u:r@i;amqp:k": "amqp://u:***@h;amqps://u:***@i;amqp:k",
		"amqp://u@h":                          "amqp://u@h",
		"see http://a:b@c/ and http://d":      "see http://a:***@c/ and http://d",
		"redis://h?password=x&db=1":           "redis://h?password=***&db=1",
		"plain":                               "plain",
	} {
		if got := MaskURLs(in); got != want {
			t.Errorf("%s is shown as %s", in, got)
		}
	}
	if Masked("rabbitmq_pass", "x") != mask || Masked("broker_key", "/etc/key") != "/etc/key" {
		t.Error("names")
	}
}
