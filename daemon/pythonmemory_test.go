package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// machineCode makes a function at its import, as compilers of Python do, and tells of
// memory that it cannot have in the way of the program's last line.
func machineCode(otherwise string) map[string]string {
	return map[string]string{
		"__init__.py": `
from girder_worker import GirderWorkerPlugin
class Plugin(GirderWorkerPlugin):
    def task_imports(self):
        return [__name__ + '.tasks']
`,
		"tasks.py": `
import ctypes, mmap, os, platform
from girder_worker.app import app
CODE = {'x86_64': 'b82a000000c3', 'aarch64': '40058052c0035fd6'}
try:
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except OSError:
    ` + otherwise + `
memory.write(bytes.fromhex(CODE[platform.machine()]))
compiled = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
@app.task
def answer():
    return compiled()
`}
}

// TestPythonMachineCode: a package that makes machine code runs as any; where its import
// may not, as in systemd's service, what is told says why, and what to do.
func TestPythonMachineCode(t *testing.T) {
	e := newPythonEnv(t)
	e.install("labtasks", "LabPlugin", nil)
	e.install("raises", "Plugin", machineCode("raise"))
	e.install("aborts", "Plugin", machineCode("print('LLVM ERROR: Unable to allocate section memory!', flush=True); os.abort()"))
	w := newWorld(t)
	w.stop()
	w.configure("slots = 2", "python = "+e.dir)
	w.start()
	for _, task := range []string{"raises.tasks.answer", "aborts.tasks.answer"} {
		w.discovered(task)
		if out, errs, code := w.call("run", "--task", task); out != "42\n" || code != 0 {
			t.Errorf("%s: %q %q %d", task, out, errs, code)
		}
	}
	w.stop()

	if _, err := unix.PrctlRetInt(unix.PR_GET_MDWE, 0, 0, 0, 0); err != nil {
		t.Skipf("this kernel cannot refuse memory that is written and executed: %v", err)
	}
	w.start(fmt.Sprintf(`exec %s -c '
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(%d, %d, 0, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])' %s daemon --config %s`, systemPython, unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, binary, w.config))
	w.discovered("labtasks.tasks.hello")
	var told string
	w.eventually("the plugins are named", func() bool {
		tasks, err := w.client.Tasks(t.Context())
		told = strings.Join(tasks.Problems, "\n")
		return err == nil && len(tasks.Problems) == 2
	})
	for _, line := range strings.Split(told, "\n") {
		raised := strings.Contains(line, "plugin raises: PermissionError:")
		// The first process of a namespace survives SIGABRT, and dies of what abort(3) does then.
		aborted := strings.Contains(line, "plugin aborts: its import did not end well: signal: ") &&
			strings.Contains(line, "; the last that it printed: LLVM ERROR: Unable to allocate section memory!; ")
		if !raised && !aborted || !strings.Contains(line, "MemoryDenyWriteExecute=no in a drop-in of girder-worker.service") {
			t.Errorf("told: %s", line)
		}
	}
}
