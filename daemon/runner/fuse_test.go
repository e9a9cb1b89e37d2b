package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// fuseHome mounts a file system that only the submitter may use, as sshfs makes
// them and as a file server treats root that does not trust it. All of it lies in
// the returned directory, too.
func fuseHome(t *testing.T, at string) (backing string) {
	t.Helper()
	backing = t.TempDir()
	if err := errors.Join(os.Mkdir(at, 0o755), os.Chown(backing, submitter, group), os.Chmod(backing, 0o700)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("not run: there is no FUSE here: ", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, submitter, group)
	if err := unix.Mount("home", at, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	root, err := fusefs.NewLoopbackRoot(backing)
	if err != nil {
		t.Fatal(err)
	}
	server, err := fuse.NewServer(fusefs.NewNodeFS(root, &fusefs.Options{}), fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve()
	t.Cleanup(func() {
		// By force: somebody else's mount namespace may have a copy, and keep it.
		if err := unix.Unmount(at, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
	return backing
}

// A home directory that root may not even look at: what the job has of it, it
// has through its submitter.
func TestHomeClosedToRoot(t *testing.T) {
	for _, user := range []string{"", "1234"} {
		w := newWorld(t)
		home := filepath.Join(w.files, "home")
		backing := fuseHome(t, home)
		if _, err := os.Stat(filepath.Join(home, "in")); !errors.Is(err, os.ErrPermission) {
			t.Fatalf("root may look: %v", err)
		}
		name := filepath.Join(backing, "in")
		if err := errors.Join(os.WriteFile(name, []byte("mine\n"), 0o600), os.Chown(name, submitter, group)); err != nil {
			t.Fatal(err)
		}
		w.request.Plan.User = user
		single := "/home/in"
		w.request.Plan.Binds = []transforms.Bind{{Source: home, Target: "/home"}}
		if user == "" {
			single = "/single"
			w.request.Plan.Binds = append(w.request.Plan.Binds, transforms.Bind{Source: filepath.Join(home, "in"), Target: single, ReadOnly: true})
		}
		w.request.Plan.Args = sh("cat /home/in " + single + " && echo made > /home/made && mkdir /home/d && echo more > /home/d/e")
		w.want(w.run(), attempt.OutcomeExited, 0, "")
		if got := w.log(); !strings.HasPrefix(got, "mine\nmine\n") {
			t.Errorf("user %q: log %q", user, got)
		}
		for _, name := range []string{"made", "d", "d/e"} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(backing, name), &st); err != nil || st.Uid != submitter || st.Gid != group {
				t.Errorf("user %q: %s is %d:%d's, %v", user, name, st.Uid, st.Gid, err)
			}
		}
	}
}
