package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Main is the confined child, see [UnpackCommand]. It returns the exit code.
func Main(args []string) int {
	// Capabilities and no_new_privs are a thread's own, and the second process
	// inherits them from the thread that starts it.
	runtime.LockOSThread()
	var err error
	switch {
	case len(args) == 1 && args[0] == stageSetup:
		err = setup()
	case len(args) == 1 && args[0] == stageWorker:
		err = work()
	default:
		err = errors.New("this command is for the program's own use")
	}
	if err == nil {
		return 0
	}
	var status *exec.ExitError
	if errors.As(err, &status) {
		if !status.Exited() {
			fmt.Fprintln(os.Stderr, "worker:", status) // else it has spoken for itself
		}
		return 1
	}
	if json.NewEncoder(os.Stdout).Encode(message{Refusal: refuse(err)}) != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// capabilities that the worker of each task has, and nothing else. Unpacking
// gives files away and sets the modes and times of what it gave away; looking at
// layers reads files of all owners.
var capabilities = map[task][]uintptr{
	taskUnpack:  {unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_FSETID},
	taskInspect: {unix.CAP_DAC_READ_SEARCH},
	taskVerify:  {unix.CAP_DAC_READ_SEARCH},
	taskSigned:  {},
}

// setup is the first process, the first of its pid namespace: when it ends, for
// whatever reason, the kernel ends the worker too.
func setup() error {
	var req request
	if err := json.NewDecoder(os.Stdin).Decode(&req); err != nil {
		return fmt.Errorf("cannot read order: %w", err)
	}
	keep, ok := capabilities[req.Task]
	if !ok {
		return fmt.Errorf("unknown task %q", req.Task)
	}
	// What the importer inherited by mistake goes no further.
	if err := unix.CloseRange(answerFD+1, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("cannot close inherited files: %w", err)
	}
	if err := limitSelf(); err != nil {
		return err
	}
	if err := forbidNamespaces(); err != nil {
		return err
	}
	if err := dropBounding(keep); err != nil {
		return err
	}
	orderWorker, order, err := os.Pipe()
	if err != nil {
		return err
	}
	ready, readyWorker, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", UnpackCommand, stageWorker)
	cmd.Dir = "/"
	cmd.Env = os.Environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = orderWorker, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(archiveFD, "archive"), os.NewFile(answerFD, "answers"), readyWorker}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start worker: %w", err)
	}
	orderWorker.Close()
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	// Its dynamic loader, where it has one, is done once it can say so.
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		return fmt.Errorf("worker did not start: %w", err)
	}
	if err := enter(&req); err != nil {
		return fmt.Errorf("cannot make the unpacker's root: %w", err)
	}
	if err := json.NewEncoder(order).Encode(req); err != nil {
		return fmt.Errorf("cannot give the worker its order: %w", err)
	}
	order.Close()
	return cmd.Wait()
}

// limitSelf bounds what a parser gone wild can take. The time limit proper is
// the importer's context.
func limitSelf() error {
	limits := map[int]uint64{
		unix.RLIMIT_CORE:   0,
		unix.RLIMIT_NOFILE: 1024,
		unix.RLIMIT_CPU:    6 * 3600,
	}
	if !raceDetector {
		limits[unix.RLIMIT_DATA] = 2 << 30
	}
	for resource, limit := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("cannot limit resource %d: %w", resource, err)
		}
	}
	return nil
}

// forbidNamespaces keeps the worker from gaining capabilities in a user
// namespace of its own: the limit holds for the namespace that writes it.
func forbidNamespaces() error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return fmt.Errorf("cannot forbid further user namespaces: %w", err)
	}
	return nil
}

// dropBounding takes from this thread what programs started by it may ever
// have, and lets them gain nothing by setuid files.
func dropBounding(keep []uintptr) error {
	for c := uintptr(0); ; c++ {
		kept := false
		for _, k := range keep {
			kept = kept || k == c
		}
		if kept {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL && c > unix.CAP_LAST_CAP {
			break // beyond what this kernel has
		}
		if err != nil && err != unix.EINVAL {
			return fmt.Errorf("cannot drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	return nil
}

// enter makes the request's root the root of the mount namespace, for this
// process and the worker, and lets go of the host's.
func enter(req *request) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	root, err := mountRoot(*req)
	if err != nil {
		return err
	}
	flags := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC)
	if req.Task != taskUnpack {
		flags |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, root, 0, &unix.MountAttr{Attr_set: flags}); err != nil {
		return fmt.Errorf("cannot restrict mount: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(".", &st); err != nil {
		return err
	}
	req.RootInode = st.Ino
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot pivot: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot let go of the host's files: %w", err)
	}
	req.Root, req.Lowers = "", nil
	return unix.Chdir("/")
}

// mountRoot mounts what the worker is to see and returns the mount point.
func mountRoot(req request) (string, error) {
	bind := func(source, target string) (string, error) {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return "", fmt.Errorf("cannot bind %s: %w", source, err)
		}
		return target, nil
	}
	switch {
	case req.Task != taskInspect:
		return bind(req.Root, req.Root)
	case len(req.Lowers) == 1: // overlayfs wants two
		return bind(req.Lowers[0], req.Root)
	}
	// Mount options fit in a page, paths of 128 layers do not: short links do.
	links := filepath.Join(req.Root, "l")
	target := filepath.Join(req.Root, "m")
	for _, dir := range []string{links, target} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
	}
	var lowers []string
	for i, lower := range req.Lowers {
		name := strconv.Itoa(i)
		if err := os.Symlink(lower, filepath.Join(links, name)); err != nil {
			return "", err
		}
		lowers = append([]string{name}, lowers...) // overlayfs has the highest first
	}
	if err := unix.Chdir(links); err != nil {
		return "", err
	}
	options := "userxattr,lowerdir=" + strings.Join(lowers, ":")
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, options); err != nil {
		return "", fmt.Errorf("cannot mount layers: %w", err)
	}
	return target, nil
}

// work is the second process. It says that it runs, waits for its order and
// carries it out in a root that holds nothing else, with the few system calls
// that this takes.
func work() error {
	ready := os.NewFile(readyFD, "ready")
	if _, err := ready.Write([]byte{0}); err != nil {
		return fmt.Errorf("cannot report: %w", err)
	}
	ready.Close()
	var req request
	if err := json.NewDecoder(os.Stdin).Decode(&req); err != nil {
		return fmt.Errorf("cannot read order: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		return err
	}
	if st.Ino != req.RootInode {
		return errors.New("the unpacker is not confined; nothing was read")
	}
	syscall.Umask(0)
	if err := filterCalls(); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	switch req.Task {
	case taskUnpack:
		return unpackArchive(os.NewFile(archiveFD, "archive"), "/", &req, out, os.NewFile(answerFD, "answers"))
	case taskInspect:
		seen, err := inspectRoot()
		if err != nil {
			return err
		}
		return out.Encode(message{Accounts: seen})
	case taskVerify:
		tree, err := verifyTree()
		if err != nil {
			return err
		}
		return out.Encode(message{Tree: tree})
	case taskSigned:
		return checkSignatures(&req, out)
	}
	return fmt.Errorf("unknown task %q", req.Task)
}
