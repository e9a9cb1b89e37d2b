package main

import (
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"girderworker/daemon/amqp/rabbittest"
)

// pythonCelery is what the function belongs to in Celery.
const pythonCelery = `
import os
from celery import Celery
app = Celery('preforked', broker=os.environ['BROKER'], backend='rpc://')
app.conf.update(task_serializer='json', result_serializer='json', accept_content=['json'])
`

const pythonPackage = `
from girder_worker import GirderWorkerPlugin
class Plugin(GirderWorkerPlugin):
    def task_imports(self):
        return ['benchtasks.tasks', 'benchtasks.others']
`

const pythonFunction = `
@app.task
def noop():
    return None
`

// pythonOthers are what else is to be found, as different tasks of as many functions.
const pythonOthers = `
for i in range(99):
    @app.task(name='benchtasks.others.task%d' % i)
    def other(a, b=1, *, c='text'):
        """Does nothing."""
`

// pythonClient makes as many calls as each line says that it reads, more than one as a
// group, and answers with the seconds from .delay() to what .get() returned.
const pythonClient = `
for line in sys.stdin:
    begin, n = time.perf_counter(), int(line)
    (noop if n == 1 else group(noop.s() for _ in range(n))).delay().get(timeout=300)
    print(time.perf_counter() - begin, flush=True)
`

// pythonSlots is how many functions both run at a time.
const pythonSlots = "4"

// pythonSection compares a function that does nothing, from .delay() to .get(), with the
// same one of a Celery prefork worker: when its interpreter waits for it, right after
// another one, and mapped over a list.
func pythonSection(ctx context.Context, b *bench) error {
	// Functions do not see /tmp.
	dir, err := os.MkdirTemp("/opt", "girder-worker-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	venv, err := pythonEnvironment(ctx, dir)
	if err != nil {
		return err
	}
	begun := time.Now()
	d, err := newDaemon(ctx, b, "python", "GIRDER_WORKER_PYTHON="+venv, "GIRDER_WORKER_SLOTS="+pythonSlots)
	if err != nil {
		return err
	}
	defer d.stop()
	ours, err := startCaller(ctx, filepath.Join(venv, "bin", "python3"), "import sys, time\nfrom girder_worker.canvas import group\nfrom benchtasks.tasks import noop"+pythonClient, "GIRDER_WORKER_SOCKET="+d.socket)
	if err != nil {
		return err
	}
	defer ours.stop()
	for {
		tasks, err := exec.CommandContext(ctx, d.binary, "--socket", d.socket, "tasks").Output()
		if err == nil && strings.Contains(string(tasks), "benchtasks.tasks.noop") && strings.Count(string(tasks), "benchtasks.others.task") == 99 {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	found := time.Since(begun)

	var rabbit rabbittest.Broker
	defer rabbit.Stop()
	if err := rabbit.Start(); err != nil {
		return err
	}
	broker := "BROKER=amqp://guest:guest@" + rabbit.Addr() + "//"
	if err := os.WriteFile(filepath.Join(dir, "preforked.py"), []byte(pythonCelery+pythonFunction), 0o644); err != nil {
		return err
	}
	worker := exec.CommandContext(ctx, "/usr/bin/python3", "-m", "celery", "-A", "preforked", "worker", "-P", "prefork", "-c", pythonSlots, "--without-gossip", "--without-mingle")
	worker.Env = []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "C_FORCE_ROOT=1", broker}
	worker.Dir = dir
	log, err := os.Create(filepath.Join(b.dir, "prefork.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	worker.Stdout, worker.Stderr = log, log
	if err := worker.Start(); err != nil {
		return fmt.Errorf("cannot start Celery: %w", err)
	}
	defer func() {
		worker.Process.Signal(syscall.SIGTERM)
		worker.Wait()
	}()
	theirs, err := startCaller(ctx, "/usr/bin/python3", "import sys, time\nfrom celery import group\nsys.path.insert(0, "+strconv.Quote(dir)+")\nfrom preforked import noop"+pythonClient, broker)
	if err != nil {
		return err
	}
	defer theirs.stop()
	for _, c := range []*caller{ours, theirs} { // connects, and has an interpreter made ready
		if _, err := c.call(1); err != nil {
			return err
		}
	}
	front, err := d.frontPID(ctx)
	if err != nil {
		return err
	}
	cost := func(pids ...int) (total time.Duration) {
		for _, pid := range pids {
			total += spent(pid)
		}
		return total
	}
	var warm, cold, prefork []time.Duration
	var oursCPU, theirsCPU time.Duration
	n := b.n(30, 3)
	for range n {
		time.Sleep(time.Second) // one after another, as people call them
		before := cost(d.cmd.Process.Pid, front)
		t, err := ours.call(1)
		if err != nil {
			return err
		}
		warm = append(warm, t)
		if t, err = ours.call(1); err != nil { // nothing is ready again so soon
			return err
		}
		cold = append(cold, t)
		time.Sleep(time.Second)
		oursCPU += cost(d.cmd.Process.Pid, front) - before
		before = cost(worker.Process.Pid)
		if t, err = theirs.call(1); err != nil {
			return err
		}
		prefork = append(prefork, t)
		theirsCPU += cost(worker.Process.Pid) - before
	}
	mapped := b.n(200, 20)
	before := cost(d.cmd.Process.Pid, front)
	oursMapped, err := ours.call(mapped)
	if err != nil {
		return err
	}
	time.Sleep(time.Second) // for what is still to be counted
	mapCPU := cost(d.cmd.Process.Pid, front) - before
	theirsMapped, err := theirs.call(mapped)
	if err != nil {
		return err
	}
	against := median(prefork)
	b.table.atMost(2, "a function that does nothing, with a warm interpreter, against a Celery prefork worker", ms(median(warm)), ms(against), median(warm).Seconds()/against.Seconds())
	b.table.note("the same, right after another one", ms(median(cold)), ms(against), median(cold).Seconds()/against.Seconds())
	rate := func(t time.Duration) float64 { return float64(mapped) / t.Seconds() }
	b.table.note(fmt.Sprintf("calls of a mapped function in a second, of %d, %s at a time", mapped, pythonSlots),
		fmt.Sprintf("%.1f", rate(oursMapped)), fmt.Sprintf("%.1f", rate(theirsMapped)), rate(oursMapped)/rate(theirsMapped))
	b.table.size(1, "s", "from the start of the daemon to 100 tasks of a Python package, discovered", found.Seconds())
	fmt.Printf("  processor time of the daemon and its children for each call: %s, mapped %s; of Celery's main process: %s\n",
		ms(oursCPU/time.Duration(2*n)), ms(mapCPU/time.Duration(mapped)), ms(theirsCPU/time.Duration(n)))
	return nil
}

// pythonEnvironment makes one with the wheels of contrib/python and the package.
func pythonEnvironment(ctx context.Context, dir string) (string, error) {
	venv := filepath.Join(dir, "venv")
	for _, args := range [][]string{
		{"-m", "venv", "--without-pip", venv},
		{"contrib/python/build.py", "1.2.3", dir},
	} {
		if out, err := exec.CommandContext(ctx, "/usr/bin/python3", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot make an environment: %w: %s", err, out)
		}
	}
	sites, err := filepath.Glob(filepath.Join(venv, "lib", "python3*", "site-packages"))
	if err != nil || len(sites) != 1 {
		return "", fmt.Errorf("cannot find the environment's packages: %v, %w", sites, err)
	}
	for _, wheel := range []string{"girder_worker", "girder_worker_utils"} {
		z, err := zip.OpenReader(filepath.Join(dir, wheel+"-1.2.3-py3-none-any.whl"))
		if err != nil {
			return "", err
		}
		err = os.CopyFS(sites[0], z)
		z.Close()
		if err != nil {
			return "", err
		}
	}
	for name, text := range map[string]string{
		"benchtasks/__init__.py":                    pythonPackage,
		"benchtasks/tasks.py":                       "from girder_worker.app import app\n" + pythonFunction,
		"benchtasks/others.py":                      "from girder_worker.app import app\n" + pythonOthers,
		"benchtasks-1.0.dist-info/METADATA":         "Metadata-Version: 2.1\nName: benchtasks\nVersion: 1.0\n",
		"benchtasks-1.0.dist-info/entry_points.txt": "[girder_worker_plugins]\nbenchtasks = benchtasks:Plugin\n",
	} {
		name = filepath.Join(sites[0], name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	// As pip leaves it.
	if out, err := exec.CommandContext(ctx, filepath.Join(venv, "bin", "python3"), "-m", "compileall", "-q", sites[0]).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot compile the packages: %w: %s", err, out)
	}
	return venv, nil
}

// spent is the processor time of a process and of its children that have ended.
func spent(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// A caller is a Python program that makes the calls that it is asked for.
type caller struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startCaller(ctx context.Context, python, program string, env ...string) (*caller, error) {
	c := &caller{cmd: exec.CommandContext(ctx, python, "-c", program)}
	c.cmd.Env = append([]string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8"}, env...)
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.lines = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start Python: %w", err)
	}
	return c, nil
}

// call makes n calls.
func (c *caller) call(n int) (time.Duration, error) {
	if _, err := fmt.Fprintln(c.in, n); err != nil {
		return 0, err
	}
	if !c.lines.Scan() {
		return 0, errors.New("the Python program has ended")
	}
	return time.ParseDuration(c.lines.Text() + "s")
}

func (c *caller) stop() {
	c.in.Close()
	c.cmd.Wait()
}
