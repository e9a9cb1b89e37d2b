package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/amqp/celerytest"
	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/daemon/policy/policytest"
	"girderworker/transforms/girder/girdertest"
)

// programs are what tasks of these tests run, in a directory of root's alone.
func newCommandWorld(t *testing.T) (w *world, bin string) {
	t.Helper()
	w = newWorld(t)
	w.stop()
	root := policytest.RootsDir(t)
	w.tasks, bin = filepath.Join(root, "tasks.d"), filepath.Join(root, "bin")
	for _, dir := range []string{w.tasks, bin} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.configure("slots = 4")
	w.start()
	return w, bin
}

func program(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// person runs the command line as somebody who may submit.
func (w *world) person(args ...string) (out string, code int) {
	w.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = "/", []string{"HOME=/nonexistent", "GIRDER_WORKER_SOCKET=" + w.socket()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: personUID, Gid: personUID, Groups: []uint32{memberGID}}}
	data, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(data), exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	return string(data), 0
}

// TestTaskCommand: a program of the machine gets what an image would, as its caller.
func TestTaskCommand(t *testing.T) {
	w, bin := newCommandWorld(t)
	program(t, filepath.Join(bin, "show"), `
printf '%s\n' "$@"
echo "I am $(id -u):$(id -g) in $(pwd), HOME=$HOME TMPDIR=$TMPDIR PATH=$PATH"
echo scratch > "$TMPDIR/x" && cat /tmp/x
`)
	program(t, filepath.Join(bin, "move"), `set -e
cat "$1" > "$3"
cat "$2"/* > "$4/all"
echo '{"total": 4, "current": 2, "message": "half"}' > "$GIRDER_WORKER_PROGRESS"
echo kept > "$5/kept" && cat "$5/kept"
cat
`)
	w.task("show.toml", fmt.Sprintf(`name = "lab.show"
title = "Show"
command = [%q, "--fixed {not} a parameter"]
args = ["{text}", { if = "n", args = ["--n", "{n}"] }, "--text={text}", "--", "{more}"]
[[parameters]]
name = "text"
type = "string"
[[parameters]]
name = "n"
type = "integer"
required = false
[[parameters]]
name = "more"
type = "string"
default = ""
`, filepath.Join(bin, "show")))
	dir := w.shared()
	w.task("move.toml", fmt.Sprintf(`name = "lab.move"
command = %q
args = ["{in}", "{dir}", "{out}", "{outdir}", "{work}"]
volumes = ["work"]
progress = true
stdin = %q
[[parameters]]
name = "in"
type = "file"
[[parameters]]
name = "dir"
type = "folder"
[[parameters]]
name = "out"
type = "new-file"
[[parameters]]
name = "outdir"
type = "new-folder"
`, filepath.Join(bin, "move"), filepath.Join(dir, "stdin")))
	w.task("name.toml", "name = \"lab.wc\"\ncommand = [\"wc\", \"-c\"]\nargs = [\"{f}\"]\n[[parameters]]\nname = \"f\"\ntype = \"file\"\n")
	for name, text := range map[string]string{"in.txt": "in\n", "stdin": "from stdin\n", "d/1": "one\n", "d/2": "two\n", "outdir/there": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "outdir"), 0o777); err != nil {
		t.Fatal(err)
	}
	w.discovered("lab.show", "lab.move", "lab.wc")

	text := "{n} {{n}} {default} a b; $(id) `id` \"'"
	out, code := w.person("run", "--task", "lab.show", "text="+text, "n=-3", "more=-rf")
	want := "--fixed {not} a parameter\n" + text + "\n--n\n-3\n--text=" + text + "\n--\n-rf\n" +
		fmt.Sprintf("I am %d:%[1]d in /tmp, HOME=/tmp TMPDIR=/tmp PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nscratch\n", personUID)
	if out != want || code != 0 {
		t.Errorf("got %d:\n%swant\n%s", code, out, want)
	}
	if out, code := w.person("run", "--task", "lab.show", "text=--output=/x"); code != 125 || !strings.Contains(out, `text: "--output=/x" begins with '-', so the program would take it for an option`) {
		t.Errorf("an option: %d %s", code, out)
	}
	out, code = w.person("run", "--task", "lab.move", "in="+filepath.Join(dir, "in.txt"), "dir="+filepath.Join(dir, "d"),
		"out="+filepath.Join(dir, "out.txt"), "outdir="+filepath.Join(dir, "outdir"))
	if out != "kept\nfrom stdin\n" || code != 0 {
		t.Errorf("move: %d %s", code, out)
	}
	for name, want := range map[string]string{"out.txt": "in\n", "outdir/all": "one\ntwo\n"} {
		var st syscall.Stat_t
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = syscall.Stat(filepath.Join(dir, name), &st)
		}
		if string(data) != want || err != nil || st.Uid != personUID {
			t.Errorf("%s has %q, %v, of %d", name, data, err, st.Uid)
		}
	}
	if out, code := w.person("run", "--task", "lab.wc", "f="+filepath.Join(dir, "in.txt")); out != "3 /mnt/girder_worker/args/f/in.txt\n" || code != 0 {
		t.Errorf("wc: %d %s", code, out)
	}
	out, _ = w.person("tasks", "show", "lab.show")
	if !strings.Contains(out, "Command") || !strings.Contains(out, filepath.Join(bin, "show")+" --fixed {not} a parameter\n") {
		t.Errorf("tasks show: %s", out)
	}
	id := w.submitAsPerson([]byte(`{"task": "lab.wc", "kwargs": {"f": "` + filepath.Join(dir, "in.txt") + `"}}`))
	w.wait(id)
	if out, _ := w.person("show", id); !strings.Contains(out, `["wc","-c"]`+"\n") {
		t.Errorf("show: %s", out)
	}
	// The example and the scaffold run at once.
	w.examples()
	w.discovered("lab.pack")
	if out, code := w.person("run", "--task", "lab.pack", "folder="+filepath.Join(dir, "d"), "archive="+filepath.Join(dir, "d.tar.gz"), "verbose=true"); code != 0 || !strings.Contains(out, "./2\n") {
		t.Errorf("pack: %d %s", code, out)
	}
	if list, err := exec.Command("tar", "-tzf", filepath.Join(dir, "d.tar.gz")).CombinedOutput(); err != nil || !strings.Contains(string(list), "./1\n") {
		t.Errorf("%v %s", err, list)
	}
	if out, errs, code := w.call("tasks", "new", "--command", "echo", "lab.new", w.tasksDir()); code != 0 {
		t.Fatalf("new: %q %q", out, errs)
	}
	w.discovered("lab.new")
	if out, code := w.person("run", "--task", "lab.new", "text=you", "file="+filepath.Join(dir, "in.txt")); out != "you /mnt/girder_worker/args/file/in.txt\n" || code != 0 {
		t.Errorf("the new task: %d %q", code, out)
	}
}

// TestTaskCommandEnds: a program ends as a container does, by itself or not.
func TestTaskCommandEnds(t *testing.T) {
	w, bin := newCommandWorld(t)
	program(t, filepath.Join(bin, "end"), `
trap 'echo asked; exit 9' TERM
case $1 in
wait) echo waiting; while :; do sleep 0.05; done;;
deaf) trap '' TERM; echo waiting; while :; do sleep 0.05; done;;
child) sleep 600 & echo waiting; exit 0;;
kill) kill -KILL $$;;
esac
exit "$1"
`)
	const file = "command = %q\nargs = [\"{how}\"]\n[[parameters]]\nname = \"how\"\ntype = \"string\"\n"
	w.task("end.toml", "name = \"lab.end\"\nstop_grace = 60\n"+fmt.Sprintf(file, filepath.Join(bin, "end")))
	w.task("hasty.toml", "name = \"lab.hasty\"\nstop_grace = 1\n"+fmt.Sprintf(file, filepath.Join(bin, "end")))
	w.task("short.toml", "name = \"lab.short\"\ntimeout = 1\nstop_grace = 1\n"+fmt.Sprintf(file, filepath.Join(bin, "end")))
	w.discovered("lab.end", "lab.hasty", "lab.short")
	for _, test := range []struct {
		task, how string
		code      int
	}{{"lab.end", "0", 0}, {"lab.end", "7", 7}, {"lab.end", "child", 0}, {"lab.end", "kill", 137}, {"lab.short", "wait", 124}, {"lab.short", "deaf", 124}} {
		if out, code := w.person("run", "--task", test.task, "how="+test.how); code != test.code {
			t.Errorf("%s %s: %d, want %d: %s", test.task, test.how, code, test.code, out)
		}
	}
	for how, task := range map[string]string{"wait": "lab.end", "deaf": "lab.hasty"} {
		id := w.submitAsPerson([]byte(`{"task": "` + task + `", "kwargs": {"how": "` + how + `"}}`))
		w.printed(id, "waiting")
		if _, err := w.client.Cancel(t.Context(), id, ""); err != nil {
			t.Fatal(err)
		}
		if job := w.wait(id); job.State != "canceled" {
			t.Errorf("%s: %+v", how, job)
		}
		if asked := strings.Contains(w.log(id), "asked"); asked != (how == "wait") {
			t.Errorf("%s: the log is %q", how, w.log(id))
		}
	}
}

// TestTaskCommandHostile: what a program, and who calls it, cannot do.
func TestTaskCommandHostile(t *testing.T) {
	w, bin := newCommandWorld(t)
	program(t, filepath.Join(bin, "try"), `
for place in /usr /opt /etc /home `+bin+` /run /run/girder_worker /mnt /; do
	if touch "$place/girder-worker-test" 2>/dev/null; then echo "wrote $place"; fi
done
for file in /etc/shadow /etc/girder-worker/worker.cfg /root/.profile; do
	if cat "$file" 2>/dev/null; then echo "read $file"; fi
done
for dir in /var/lib /run/systemd /boot /sys/fs/cgroup/system.slice; do
	if [ -e "$dir" ]; then echo "saw $dir"; fi
done
ls /mnt /var /tmp
su -c id nobody </dev/null >/dev/null 2>&1 && echo "became somebody"
unshare -r true 2>/dev/null && echo "made a namespace"
mount -t tmpfs none /mnt 2>/dev/null && echo "mounted"
grep -h 'Cap\(Eff\|Prm\|Amb\)' /proc/self/status
echo done
`)
	w.task("try.toml", fmt.Sprintf("name = \"lab.try\"\ncommand = %q\n", filepath.Join(bin, "try")))
	w.discovered("lab.try")
	const none = "0000000000000000"
	out, code := w.person("run", "--task", "lab.try")
	if want := "/mnt:\ngirder_worker\n\n/tmp:\n\n/var:\ntmp\nCapPrm:\t" + none + "\nCapEff:\t" + none + "\nCapAmb:\t" + none + "\ndone\n"; out != strings.Replace(want, "girder_worker\n", "", 1) || code != 0 {
		t.Errorf("got %d:\n%swant\n%s", code, out, want)
	}
	// Only a task file says what runs.
	for _, document := range []string{
		`{"command": ["/bin/sh"]}`, `{"image": "busybox", "command": ["/bin/sh"]}`, `{"task": "lab.try", "command": ["/bin/sh"]}`,
		`{"task": "lab.try", "image": "busybox"}`, `{"task": "lab.try", "entrypoint": ["/bin/sh"]}`, `{"task": "lab.try", "user": "0"}`,
		`{"task": "lab.try", "binds": [{"source": "/home", "target": "/usr"}]}`, `{"task": "lab.try", "env": {"LD_PRELOAD": "/x"}}`,
		`{"jobs": [{"image": "busybox"}, {"command": ["/bin/sh"]}]}`,
	} {
		if job, err := w.client.Submit(t.Context(), []byte(document)); err == nil {
			t.Errorf("%s is taken: %+v", document, job)
		} else if told, ok := errors.AsType[*client.Error](err); !ok || told.Kind != apitype.KindBadRequest {
			t.Errorf("%s: %v", document, err)
		}
	}
}

// TestTaskCommandTrust: a program is root's alone, whenever it is asked for.
func TestTaskCommandTrust(t *testing.T) {
	w, bin := newCommandWorld(t)
	greet := filepath.Join(bin, "greet")
	program(t, greet, "echo hello\n")
	file := fmt.Sprintf("name = \"lab.greet\"\ncommand = %q\n", greet)
	w.task("greet.toml", file)
	w.discovered("lab.greet")
	held := func() string {
		t.Helper()
		return w.submitAsPerson([]byte(`{"task": "lab.greet", "hold": "until the test says so"}`))
	}
	released := func(id string) apitype.Job {
		t.Helper()
		if _, err := w.client.Release(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return w.wait(id)
	}
	if out, code := w.person("run", "--task", "lab.greet"); out != "hello\n" || code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	chmod := func(name string, mode os.FileMode) func() {
		return func() {
			if err := os.Chmod(name, mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace := func(to string) func() {
		return func() {
			os.Remove(greet)
			if err := os.Symlink(to, greet); err != nil {
				t.Fatal(err)
			}
		}
	}
	theirs := filepath.Join(w.shared(), "theirs")
	program(t, theirs, "echo theirs\n")
	whole := func() { os.Remove(greet); program(t, greet, "echo hello\n") }
	for _, change := range []struct {
		what         string
		break_, mend func()
		want         string
	}{
		{"a program that all may write", chmod(greet, 0o777), chmod(greet, 0o755), "chmod go-w " + greet},
		{"a directory that a group may write", chmod(bin, 0o775), chmod(bin, 0o755), "chmod go-w " + bin},
		{"somebody's program", func() { _ = os.Chown(greet, personUID, 0) }, func() { _ = os.Chown(greet, 0, 0) }, "belongs to user 64110"},
		{"a link to somebody's", replace(theirs), whole, "can be changed by others than root"},
		{"a link to nothing", replace("nothing"), whole, "there is no program " + greet},
		{"a program that is gone", func() { os.Remove(greet) }, whole, "there is no program " + greet},
		{"one that is not executable", chmod(greet, 0o644), chmod(greet, 0o755), "is not executable: chmod a+x " + greet},
	} {
		id := held()
		change.break_()
		if job := released(id); job.State != "failed" || !strings.Contains(job.Reason+job.Error, change.want) {
			t.Errorf("%s, at the start: %s %q %q", change.what, job.State, job.Reason, job.Error)
		}
		if out, code := w.person("run", "--task", "lab.greet"); code != 125 || !strings.Contains(out, change.want) {
			t.Errorf("%s, at the call: %d %s", change.what, code, out)
		}
		if out, errs, code := w.call("tasks"); code != 0 || !strings.Contains(errs, "greet.toml:2:1: command: ") || !strings.Contains(errs, change.want) || !strings.Contains(out, "lab.greet") {
			t.Errorf("%s, listed: %d %s", change.what, code, errs)
		}
		if _, errs, code := w.call("tasks", "check", filepath.Join(w.tasks, "greet.toml")); code != 125 || !strings.Contains(errs, change.want) {
			t.Errorf("%s, checked: %d %s", change.what, code, errs)
		}
		change.mend()
		if out, code := w.person("run", "--task", "lab.greet"); out != "hello\n" || code != 0 {
			t.Errorf("mended: %d %s", code, out)
		}
	}
	// The policy's word counts as well, also for a job that waits.
	id := held()
	policy := filepath.Join(w.dir, "etc", "no-policy.toml")
	if err := os.WriteFile(policy, []byte("[socket]\ncommands = false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("the policy is read", func() bool {
		_, code := w.person("run", "--task", "lab.greet")
		return code == 125
	})
	const forbidden = "task: it runs a program of this machine, which sees its files, and none may be run; the machine's admin can allow it with commands in a section of policy.toml for you"
	if out, _ := w.person("run", "--task", "lab.greet"); !strings.Contains(out, forbidden) {
		t.Errorf("a call: %s", out)
	}
	if job := released(id); job.State != "failed" || !strings.Contains(job.Error, forbidden) {
		t.Errorf("a start: %+v", job)
	}
	if err := os.Remove(policy); err != nil {
		t.Fatal(err)
	}
	w.eventually("the policy is gone", func() bool {
		_, code := w.person("run", "--task", "lab.greet")
		return code == 0
	})
	// A job keeps what it was accepted as. Whether its command may be run, the files say
	// when it starts.
	ended := w.submitAsPerson([]byte(`{"task": "lab.greet"}`))
	w.wait(ended)
	one, two := held(), held()
	w.task("greet.toml", file+"args = [\"x\"]\n")
	w.task("renamed.toml", strings.ReplaceAll(file, "lab.greet", "lab.other"))
	w.discovered("lab.other")
	if err := os.Remove(filepath.Join(w.tasks, "greet.toml")); err != nil {
		t.Fatal(err)
	}
	if job := released(one); job.State != "succeeded" {
		t.Errorf("another file has the command: %+v", job)
	}
	if job, err := w.client.Retry(t.Context(), ended); err != nil || w.wait(job.ID).State != "succeeded" {
		t.Errorf("a retry: %+v, %v", job, err)
	}
	w.task("renamed.toml", strings.ReplaceAll(file, greet, "/bin/true"))
	said := greet + " is what no task file in " + w.tasks + " says (any more)"
	if job := released(two); job.State != "failed" || !strings.Contains(job.Error, said) {
		t.Errorf("no file has it: %+v", job)
	}
	if job, err := w.client.Retry(t.Context(), ended); err != nil {
		t.Error(err)
	} else if job := w.wait(job.ID); job.State != "failed" || !strings.Contains(job.Error, said) {
		t.Errorf("a retry: %+v", job)
	}
	// Whoever can write task files says what runs.
	w.task("greet.toml", file)
	w.discovered("lab.greet")
	id = held()
	if err := os.Chmod(filepath.Dir(w.tasks), 0o777); err != nil {
		t.Fatal(err)
	}
	if job := released(id); job.State != "failed" || !strings.Contains(job.Error, "chmod go-w "+filepath.Dir(w.tasks)) {
		t.Errorf("a directory above the files: %+v", job)
	}
}

// TestCeleryTaskCommand: Girder asks for a program as for an image, if the admin lets it.
func TestCeleryTaskCommand(t *testing.T) {
	vhost := rabbit.Vhost(t)
	url := "amqp://guest:guest@" + rabbit.Addr() + "/" + vhost
	w, bin := newCommandWorld(t)
	c := celerytest.New(t, url)
	program(t, filepath.Join(bin, "show"), `set -e
echo "$1"
cat "$2"
cp "$2" "$3"
test "$(id -u)" -ge 1000
touch /usr/girder-worker-test 2>/dev/null && echo wrote
echo '{"total": 4, "current": 2, "message": "half"}' > "$GIRDER_WORKER_PROGRESS"
exit "$4"
`)
	w.task("show.toml", fmt.Sprintf(`name = "lab.show"
command = %q
args = ["{text}", "{file}", "{out}", "{code}"]
progress = true
[[parameters]]
name = "file"
type = "file"
[[parameters]]
name = "text"
type = "string"
[[parameters]]
name = "out"
type = "new-file"
[[parameters]]
name = "code"
type = "integer"
default = 0
[girder_job]
title = "Shown"
type = "show"
`, filepath.Join(bin, "show")))
	w.task("wait.toml", "name = \"lab.wait\"\ncommand = [\"sleep\", \"600\"]\n")
	w.stop()
	w.configure(fmt.Sprintf("slots = 2\n[celery]\nbroker = %s\nhostname = celery@test\n", url))
	w.start()
	var said string
	decode(t, c.Run(t, `
try:
    app.send_task('lab.wait').get(timeout=90)
except Exception as e:
    say(str(e))
`)[0], &said)
	if !strings.Contains(said, "lab.wait runs a program of its worker's machine, and none may be run from the message queue; the machine's admin can allow it with commands = true in [amqp] of policy.toml") {
		t.Errorf("without leave: %q", said)
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.dir, "etc", "no-policy.toml"), []byte("[amqp]\ncommands = true\nwrite = [\""+w.shared()+"\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.start()

	g := girdertest.New(t, girdertest.Config{})
	user := g.AddUser(false)
	token := g.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	folder := g.AddFolder(user, "data")
	file := g.AddFile(g.AddItem(folder, "scan"), "scan.txt", []byte("a scan\n"))
	job, jobToken := g.AddJob(user, "worker_handler")
	spec, err := json.Marshal(map[string]any{
		"method": "PUT", "url": g.API() + "/job/" + job, "reference": job, "logPrint": true, "headers": map[string]any{"Girder-Token": jobToken},
	})
	if err != nil {
		t.Fatal(err)
	}
	create := g.AddToken(user, girdertest.ScopeCreateJob)
	said2 := c.Run(t, script+fmt.Sprintf(`
import json
D = 'girder_worker.docker.transforms.'
gc = {'py/object': 'girder_client.GirderClient', 'urlBase': %[1]q, 'token': %[2]q}
default = {'py/object': D + '_DefaultTemporaryVolume'}
fetched = {'py/object': D + 'girder.GirderFileIdToVolume', '_file_id': %[3]q, '_filename': None, '_file_path': None, '_volume': default, 'gc': gc}
out = {'py/object': D + 'VolumePath', 'filename': 'out.txt', '_volume': default}
hook = {'py/object': D + 'girder.GirderUploadVolumePathToFolder', 'folder_id': %[4]q, 'upload_kwargs': {}, 'delete_file': False, 'must_exist': True, 'gc': gc, '_volumepath': out}
over = {'py/object': D + 'VolumePath', 'filename': 'x', '_volume': {'py/object': D + 'BindMountVolume', '_host_path': %[7]q, '_container_path': '/usr/bin', 'mode': 'rw'}}
beside = {'py/object': D + 'VolumePath', 'filename': 'x', '_volume': {'py/object': D + 'BindMountVolume', '_host_path': %[7]q, '_container_path': '/mnt/beside', 'mode': 'rw'}}
def show(*args, **kw):
    options = kw.pop('options', {})
    return app.send_task('lab.show', args=args, kwargs=kw, **options)
results = [
    show(fetched, text='{scan}', out=out, options=dict(headers={'girder_result_hooks': [hook], 'jobInfoSpec': json.loads(%[5]q), 'apiUrl': %[1]q})),
    show(fetched, 'x', out, code=7),
    show(fetched, '-x', out),
    show(fetched, 'x', over),
    show(fetched, 'x', beside),
    app.send_task('lab.wait', soft_time_limit=None, time_limit=1),
]
for r in results:
    try:
        said = r.get(timeout=90)
    except Exception as e:
        said = [type(e).__name__, str(e)]
    say([r.id, said])
from celery import chain, signature
r = chain(signature('lab.show', kwargs={'file': fetched, 'text': 'first', 'out': out}, immutable=True), signature('lab.show', kwargs={'file': fetched, 'text': 'second', 'out': out}, immutable=True)).apply_async(
    headers={'girder_api_url': %[1]q, 'girder_client_token': %[6]q})
r.get(timeout=90)
say([r.id, r.parent.id])
waits = app.send_task('lab.wait')
say(waits.id)
`, g.API(), token, file, folder, spec, create, w.shared()))
	for i, want := range []struct{ says, log string }{
		{`null`, "{scan}\na scan\n"},
		{`["DockerException", "Non-zero exit code from docker container (7)."]`, "x\na scan\n"},
		{`text: \"-x\" begins with '-', so the program would take it for an option`, ""},
		{`the target /usr/bin is the machine's own; what a command gets is beneath /mnt, /tmp, /var/tmp`, ""},
		{`null`, "x\na scan\n"},
		{`TimeLimitExceeded`, ""},
	} {
		var pair []json.RawMessage
		decode(t, said2[i], &pair)
		var id string
		decode(t, pair[0], &id)
		if !strings.Contains(string(pair[1]), want.says) {
			t.Errorf("result %d is %s, want %s", i, pair[1], want.says)
		}
		job := w.wait(id)
		if log := w.log(id); want.log != "" && log != want.log {
			t.Errorf("the log of %d is %q, want %q", i, log, want.log)
		}
		if strings.Contains(string(job.Document), token) || strings.Contains(job.Reason, token) {
			t.Errorf("job %d tells the token: %+v", i, job)
		}
	}
	var chain []string
	decode(t, said2[6], &chain)
	if first, second := w.log(chain[1]), w.log(chain[0]); !strings.HasPrefix(first, "first\n") || !strings.HasPrefix(second, "second\n") {
		t.Errorf("the chain wrote %q, %q", first, second)
	}
	var waits string
	decode(t, said2[7], &waits)
	w.eventually("the program runs", func() bool { return w.job(waits).State == "running" })
	c.Run(t, fmt.Sprintf("app.control.revoke(%q, terminate=True)\nsay(1)", waits))
	if job := w.wait(waits); job.State != "canceled" {
		t.Errorf("revoked: %+v", job)
	}
	if data, err := os.ReadFile(filepath.Join(w.shared(), "x")); string(data) != "a scan\n" {
		t.Errorf("in the bind is %q, %v", data, err)
	}
	w.eventually("the job is told to Girder", func() bool {
		return g.Job(job).Status == 3 && strings.Contains(strings.Join(g.Job(job).Log, ""), "{scan}\na scan\n")
	})
	w.eventually("the upload is there", func() bool { return len(g.Calls("POST /file")) > 0 })
	if made := g.Calls("POST /job"); len(made) != 1 || made[0].Form["title"][0] != "Shown" || made[0].Form["type"][0] != "show" {
		t.Errorf("jobs made for the chain: %+v", made)
	}
}
