package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFlagsBeatVariablesBeatFiles(t *testing.T) {
	main := filepath.Join(t.TempDir(), "worker.cfg")
	write(t, main, "[girder_worker]\nstate_dir = /a\nruntime_dir = /a\nuser = a\ngroup: a\n\n[limits]\nmemory = 2GiB\ntime = 7d\n[logging]\nlevel = WARNING\n")
	write(t, filepath.Join(filepath.Dir(main), "worker.local.cfg"), "# mine\n[girder_worker]\nruntime_dir = /b\nuser = b\ngroup = b\n")
	c, warnings, err := Load(Sources{
		File:    main,
		Environ: []string{"GIRDER_WORKER_USER=c", "GIRDER_WORKER_GROUP=c", "GIRDER_WORKER_LIMITS_PIDS=77", "HOME=/"},
		Flags:   map[string]string{"group": "d"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %q", warnings)
	}
	if c.StateDir != "/a" || c.RuntimeDir != "/b" || c.User != "c" || c.Group != "d" {
		t.Errorf("state %s, runtime %s, user %s, group %s", c.StateDir, c.RuntimeDir, c.User, c.Group)
	}
	if c.Limits.Memory != 2<<30 || c.Limits.Time != 7*24*time.Hour || c.Limits.PIDs != 77 || c.Log.Level != slog.LevelWarn {
		t.Errorf("limits %+v, log %+v", c.Limits, c.Log)
	}
}

func TestEveryProblemIsNamedAtOnce(t *testing.T) {
	main := filepath.Join(t.TempDir(), "worker.cfg")
	write(t, main, `lost = 1
[girder_worker]
state_dir = relative
slot = 4
slots = many
slots = 3
nonsense
[limits]
memory = -1
`)
	_, _, err := Load(Sources{
		File:    main,
		Environ: []string{"GIRDER_WORKER_ID_SIZE=131073"},
		Flags:   map[string]string{"launcher": "docker"},
	})
	var bad Invalid
	if !errors.As(err, &bad) {
		t.Fatalf("error is %v", err)
	}
	for _, want := range []string{
		main + ":1: an option must stand below a [section]",
		main + ":3: girder_worker.state_dir must be an absolute path",
		main + ":4: girder_worker.slot is not an option",
		main + ":5: girder_worker.slots must be a whole number from 1 to 1000, not \"many\"",
		main + ":6: girder_worker.slots is set before, at " + main + ":5",
		main + ":7: must be a [section]",
		main + ":9: limits.memory must be a size",
		"GIRDER_WORKER_ID_SIZE: girder_worker.id_size must be a multiple of 65536",
		"--launcher: girder_worker.launcher must be auto, session or systemd",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no line %q in\n%v", want, err)
		}
	}
	if len(bad) != 9 {
		t.Errorf("%d problems:\n%v", len(bad), err)
	}
}

// A file of the Python worker, as its distribution has it, keeps working.
func TestPythonOptionsAreWarnings(t *testing.T) {
	main := filepath.Join(t.TempDir(), "worker.cfg")
	write(t, main, `[girder_worker]
# a comment
tmp_root=tmp
[celery]
app_main=girder_worker
broker=amqp://guest:guest@localhost/
[logging]
level=info
format=[%%(asctime)s] %%(levelname)s:
    %%(message)s
`)
	c, warnings, err := Load(Sources{File: main, Environ: []string{"GIRDER_WORKER_BACKEND=rpc://", "GIRDER_WORKER_SLOTZ=3"}})
	if err != nil || c.Celery.Broker != "amqp://guest:guest@localhost/" {
		t.Fatal(c.Celery, err)
	}
	if len(warnings) != 3 {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
}

// TestVariables goes through every variable that Girder 5's worker reads.
func TestVariables(t *testing.T) {
	for _, tt := range []struct {
		variable, warning string
		honoured          func(*Config) bool
	}{
		{"BROKER=amqp://h/", "", func(c *Config) bool { return c.Celery.Broker == "amqp://h/" }},
		{"API_URL=http://girder:8080/api/v1", "", func(c *Config) bool { return c.APIURL == "http://girder:8080/api/v1" }},
		{"LOGGING_LEVEL=warning", "", func(c *Config) bool { return c.Log.Level == slog.LevelWarn }},
		{"BACKEND=rpc://h/", "back through celery.broker", nil},
		{"BACKEND=redis://h/", "nobody finds results at redis://", nil},
		{"LOGGING_FORMAT=%(message)s", "logging.output", nil},
		{"CELERY_APP_MAIN=app_main", "by their own names", nil},
		{"TASK_ALWAYS_EAGER=false", "", nil},
		{"TASK_ALWAYS_EAGER=True", "never runs them in their caller", nil},
		{"JOB_GC_SCOPE=core.data.read", "set it for the server", nil},
		{`DOCKER_RUN_OPTIONS={"network": "host"}`, "", func(c *Config) bool { return c.RunOptions == `{"network":"host"}` }},
		{"DOCKER_RUN_OPTIONS=", "", func(c *Config) bool { return c.RunOptions == "" }},
		{"SLOTZ=1", "did you mean GIRDER_WORKER_SLOTS?", nil},
		{"ENTIRELY_DIFFERENT=1", "not a variable of girder-worker and has no effect", nil},
	} {
		s, _ := localFile(t, "")
		s.Environ = []string{envPrefix + tt.variable}
		c, warnings, err := Load(s)
		if err != nil {
			t.Errorf("%s: %v", tt.variable, err)
			continue
		}
		if tt.honoured != nil && !tt.honoured(&c) {
			t.Errorf("%s does nothing", tt.variable)
		}
		switch {
		case tt.warning == "" && len(warnings) > 0:
			t.Errorf("%s: %q", tt.variable, warnings)
		case tt.warning != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], tt.warning)):
			t.Errorf("%s: %q, want %s", tt.variable, warnings, tt.warning)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, _, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.cfg")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that was asked for and is missing: %v", err)
	}
}

// Every value reads back what it prints, so that `config list` can be pasted.
func TestValuesRoundTrip(t *testing.T) {
	c := Default()
	c.Socket, c.DropDir, c.AuditLog, c.MetricsWebConfig, c.GirderKeyFile = "/s", "/d", "/a", "/w", "/g"
	c.RunOptions = `{"shm_size":"1g"}`
	c.Celery = Celery{"amqp://h;amqp://i", "/ca", "/c", "/k", "n", "w@h", "a,b", 7}
	c.fill(8, 16<<30, 1<<40)
	again := Default()
	again.Hardware = c.Hardware
	target := again.Keys()
	for i, k := range c.Keys() {
		if err := target[i].value.Set(k.Value()); err != nil {
			t.Errorf("%s = %s: %v", k, k.Value(), err)
		}
	}
	if !reflect.DeepEqual(c, again) {
		t.Errorf("%+v\nread back as\n%+v", c, again)
	}
}

func TestFill(t *testing.T) {
	for _, tt := range []struct {
		cpus    int
		slots   int
		each    float64
		scratch int64
	}{{1, 1, 1, 10 << 30}, {2, 1, 2, 10 << 30}, {8, 4, 2, 10 << 30}, {9, 4, 2.25, 10 << 30}, {64, 32, 2, 5 << 29}} {
		c := Default()
		c.fill(tt.cpus, 10<<30, 100<<30)
		if c.Machine.Slots != tt.slots || c.Limits.CPUs != tt.each {
			t.Errorf("%d processors: %d slots of %g", tt.cpus, c.Machine.Slots, c.Limits.CPUs)
		}
		if got := c.Limits.Memory * int64(tt.slots); got > 8<<30 || got < 8<<30-int64(tt.slots)*4096 {
			t.Errorf("%d processors: memory %d in all", tt.cpus, got)
		}
		if c.Hardware.Disk != 50<<30 {
			t.Errorf("disk of one job %d", c.Hardware.Disk)
		}
		if c.Limits.Scratch != tt.scratch {
			t.Errorf("%d processors: scratch %d", tt.cpus, c.Limits.Scratch)
		}
	}
}

func TestChangedAndApplied(t *testing.T) {
	a := Default()
	a.fill(4, 8<<30, 1<<40)
	b := a
	b.Machine.Slots, b.Log.Level, b.Socket = 3, slog.LevelDebug, "/elsewhere"
	live, restart := Changed(a, b)
	if !reflect.DeepEqual(live, []string{"girder_worker.slots", "logging.level"}) || !reflect.DeepEqual(restart, []string{"girder_worker.socket"}) {
		t.Errorf("live %q, restart %q", live, restart)
	}
	if err := ApplyLive(b, &a); err != nil {
		t.Fatal(err)
	}
	if a.Machine.Slots != 3 || a.Log.Level != slog.LevelDebug || a.Socket != "" {
		t.Errorf("applied: %+v", a)
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "1k": 1024, "1.5M": 3 << 19, "2 GiB": 2 << 30, "64MiB": 64 << 20, "10b": 10} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q is %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "M", "-1", "nan", "1e30", "1X", "1MM", "0x10"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
}

func FuzzINI(f *testing.F) {
	f.Add("[a]\nb = c\n d\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, _ := parseINI("f", text)
		for _, e := range entries {
			if !strings.Contains(e.key, ".") {
				t.Errorf("key %q", e.key)
			}
		}
	})
}

// TestConcurrency: what the Python worker calls it counts where slots are not set.
func TestConcurrency(t *testing.T) {
	for _, tt := range []struct {
		text  string
		slots int
		warns string
		fails bool
	}{
		{"[celery]\nconcurrency = 3\n", 3, "", false},
		{"[celery]\nworker_concurrency = 5\n", 5, "", false},
		{"[celery]\nconcurrency = 3\n[girder_worker]\nslots = 7\n", 7, "celery.concurrency has no effect: girder_worker.slots, which is set,", false},
		{"[celery]\nconcurrency = none\n", 0, "", true},
	} {
		file := filepath.Join(t.TempDir(), "worker.cfg")
		write(t, file, tt.text)
		c, warnings, err := Load(Sources{File: file})
		if tt.fails != (err != nil) || !tt.fails && c.Machine.Slots != tt.slots || !strings.Contains(strings.Join(warnings, " "), tt.warns) || tt.warns == "" && len(warnings) > 0 {
			t.Errorf("%q: %d slots, %q, %v", tt.text, c.Machine.Slots, warnings, err)
		}
	}
}
