package daemon_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/transforms/girder/girdertest"
)

// uploader is a world with a Girder server, whose uploads hang.
type uploader struct {
	*world
	girder *girdertest.Server
	token  string
	folder string
	items  map[string]string // by job
}

func newUploader(t *testing.T) *uploader {
	u := &uploader{world: newWorld(t), items: map[string]string{}, girder: girdertest.New(t, girdertest.Config{MinChunk: 1})}
	user := u.girder.AddUser(true)
	u.token = u.girder.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	u.folder = u.girder.AddFolder(user, "data")
	u.girder.Fail("POST /file/chunk", -1, girdertest.Hang())
	return u
}

// upload submits a job that uploads a file, and returns when that hangs.
func (u *uploader) upload() string {
	u.t.Helper()
	item := u.girder.AddItem(u.folder, "item")
	id := u.submit("echo -n result >/mnt/girder_worker/default/out.txt; echo written",
		"girder", map[string]any{"api_url": u.girder.API(), "token": u.token},
		"uploads", []map[string]any{{"path": "out.txt", "item_id": item}}).ID
	u.items[id] = item
	u.eventually("the upload hangs", func() bool {
		job := u.job(id)
		if job.State == "failed" || job.State == "succeeded" {
			u.t.Fatalf("job %+v", job)
		}
		return job.State == "finishing" && strings.Contains(job.Stage, "uploading out.txt")
	})
	return id
}

// TestUploadsOutliveRunner: a job whose outputs are on their way occupies
// nothing, and they arrive once, whatever dies.
func TestUploadsOutliveRunner(t *testing.T) {
	u := newUploader(t)
	var ids []string
	for range 5 { // more than there are slots
		u.girder.Mend()
		u.girder.Fail("POST /file/chunk", -1, girdertest.Hang())
		ids = append(ids, u.upload())
	}
	id := ids[0]
	pid := u.runner(id, 1).Pid
	if err := u.runner(id, 1).Kill(); err != nil {
		t.Fatal(err)
	}
	u.eventually("another runner goes on", func() bool { return u.runner(id, 1).Pid != pid && u.job(id).Stage != "finishing" })
	// The same without a daemon, and with a machine that goes down.
	u.cmd.Process.Kill()
	u.waitExit()
	u.eventually("power is off", func() bool {
		left := u.processes()
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0
	})
	u.girder.Mend()
	u.start()
	for _, id := range ids {
		if job := u.wait(id); job.State != "succeeded" || job.Attempt != 1 {
			t.Errorf("job %+v", job)
		}
	}
	for id, item := range u.items {
		files := u.girder.Files(item)
		if len(files) != 1 || string(files[0].Data) != "result" {
			t.Errorf("files of job %s are %+v", id, files)
		}
	}
	for _, id := range ids {
		for _, name := range []string{"secrets.json", "finish.json"} {
			u.eventually(name+" of job "+id+" is gone", func() bool {
				_, err := os.Lstat(filepath.Join(u.state(), "jobs", id, "1", name))
				return errors.Is(err, fs.ErrNotExist)
			})
		}
	}
}

// TestCancelUpload: a cancel ends the uploads and the job.
func TestCancelUpload(t *testing.T) {
	u := newUploader(t)
	id := u.upload()
	if _, err := u.client.Cancel(t.Context(), id, "enough"); err != nil {
		t.Fatal(err)
	}
	if job := u.wait(id); job.State != "canceled" {
		t.Errorf("job %+v", job)
	}
	if files := u.girder.Files(u.items[id]); len(files) != 0 {
		t.Errorf("files are %+v", files)
	}
}

// TestUploadsTakeTurns: while Girder is away, few of the jobs that wait for it
// have a process; one of the others can be canceled; somebody else's go on; and
// when Girder is back, all arrive.
func TestUploadsTakeTurns(t *testing.T) {
	u := newUploader(t)
	u.girder.Mend()
	u.girder.Fail("POST /file/chunk", -1, girdertest.Status(503))
	const most = attempt.UploadTurns + 1 // one of them is their owner's own
	const n = most + 4
	var ids []string
	for range n {
		item := u.girder.AddItem(u.folder, "item")
		id := u.submit("echo -n result >/mnt/girder_worker/default/out.txt",
			"girder", map[string]any{"api_url": u.girder.API(), "token": u.token},
			"uploads", []map[string]any{{"path": "out.txt", "item_id": item}}).ID
		u.items[id] = item
		ids = append(ids, id)
	}
	waiting := func() (all []string) {
		for _, id := range ids {
			if strings.Contains(u.job(id).Stage, "waiting for the uploads of other jobs") {
				all = append(all, id)
			}
		}
		return all
	}
	u.eventually("four wait for their turn", func() bool {
		for _, id := range ids {
			if u.job(id).State != "finishing" {
				return false
			}
		}
		return len(waiting()) == n-most
	})
	u.eventually(fmt.Sprintf("at most %d runners", most+1), func() bool { // one is kept warm
		runners := 0
		for _, pid := range u.processes() {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(line), "\x00runner\x00") {
				runners++
			}
		}
		return runners <= most+1
	})
	other := girdertest.New(t, girdertest.Config{MinChunk: 1})
	user := other.AddUser(true)
	item := other.AddItem(other.AddFolder(user, "data"), "item")
	for n := range 3 {
		// Two at a time: one waits for the other.
		other.Fail("POST /file/chunk", 1, girdertest.Status(503))
		name := fmt.Sprintf("%d.txt", n)
		u.submitAsPerson(document("echo -n "+name+" >/mnt/girder_worker/default/"+name,
			"girder", map[string]any{"api_url": other.API(), "token": other.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)},
			"uploads", []map[string]any{{"path": name, "item_id": item}}))
	}
	u.eventually("somebody else's uploads arrive", func() bool { return len(other.Files(item)) == 3 })
	if n := len(waiting()); n != len(ids)-most {
		t.Errorf("%d of the first wait, want %d as before", n, len(ids)-most)
	}
	canceled := waiting()[0]
	begun := time.Now()
	if _, err := u.client.Cancel(t.Context(), canceled, "enough"); err != nil {
		t.Fatal(err)
	}
	if job := u.wait(canceled); job.State != "canceled" {
		t.Errorf("job %+v", job)
	}
	t.Logf("canceled after %v", time.Since(begun))
	u.stop() // and the next daemon knows who waits
	u.start()
	u.girder.Mend()
	for _, id := range ids {
		if job := u.wait(id); id != canceled && job.State != "succeeded" {
			t.Errorf("job %+v", job)
		}
	}
	for id, item := range u.items {
		if files := u.girder.Files(item); id != canceled && len(files) != 1 {
			t.Errorf("files of job %s are %+v", id, files)
		}
	}
}

// TestLostVolume: a volume in a directory of the submitter goes with the attempt
// whose runner was killed, before the next attempt begins.
func TestLostVolume(t *testing.T) {
	w := newWorld(t)
	host := filepath.Join(w.shared(), "scratch")
	id := w.submit("echo here >/v/file; echo up; sleep 1000", "volumes", []map[string]any{{"name": "v", "target": "/v", "host_dir": host}}).ID
	w.printed(id, "up")
	first, err := os.ReadDir(host)
	if err != nil || len(first) != 1 {
		t.Fatal(first, err)
	}
	if err := w.runner(id, 1).Kill(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the second attempt has its own", func() bool {
		second, err := os.ReadDir(host)
		return err == nil && len(second) == 1 && second[0].Name() != first[0].Name() && w.job(id).Attempt == 2 && w.job(id).State == "running"
	})
	// The same while there is no daemon.
	w.cmd.Process.Kill()
	w.waitExit()
	if err := w.runner(id, 2).Kill(); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("the third attempt", func() bool { return w.job(id).Attempt == 3 && w.job(id).State == "running" })
	if _, err := w.client.Cancel(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	w.wait(id)
	w.eventually("nothing is left", func() bool {
		left, err := os.ReadDir(host)
		return err == nil && len(left) == 0
	})
}

// TestTransferKilled: a job whose transfer process is killed starts again, as it
// does when its runner is; one that loses it again and again has failed.
func TestTransferKilled(t *testing.T) {
	u := newUploader(t)
	file := u.girder.AddFile(u.girder.AddItem(u.folder, "in"), "in", []byte("data"))
	submit := func() string {
		return u.submit("true", "girder", map[string]any{"api_url": u.girder.API(), "token": u.token},
			"downloads", []map[string]any{{"name": "in", "file_id": file}}).ID
	}
	u.girder.Fail("GET /file/{id}/download", -1, girdertest.Hang())
	kill := func(id string, n int) {
		t.Helper()
		u.eventually(fmt.Sprintf("attempt %d downloads", n), func() bool {
			job := u.job(id)
			return job.Attempt == n && strings.Contains(job.Stage, "fetching")
		})
		killed := 0
		for _, pid := range u.processes() {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.Contains(string(line), "\x00transfer\x00") && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		if killed != 1 {
			t.Fatalf("killed %d processes", killed)
		}
	}
	bad := submit()
	for n := 1; n <= 10; n++ {
		kill(bad, n)
	}
	if job := u.wait(bad); job.State != "failed" || job.Attempt != 10 || !strings.Contains(job.Error, "died, after 9 attempts that were lost") {
		t.Errorf("job %+v", job)
	}
	good := submit()
	kill(good, 1)
	u.girder.Mend()
	if job := u.wait(good); job.State != "succeeded" || job.Attempt != 2 {
		t.Errorf("job %+v", job)
	}
}
