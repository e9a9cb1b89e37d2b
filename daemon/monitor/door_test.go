package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/daemon/peer"
	"girderworker/transforms"
)

// A front that was taken over cannot make up who submitted a job.
func TestForgedIdentity(t *testing.T) {
	o := testOptions(t)
	d := startDaemon(t, o)
	defer d.end(t)
	good := testRequest("job", 1, "exit")
	good.Identity, _ = d.identify(peer.Credentials{UID: 1234, GID: 1234, PID: 9, Groups: []int{1234, 44, 0, 5000}})
	if !slices.Equal(good.Identity.Groups, []int{44, 5000}) {
		t.Errorf("groups %v", good.Identity.Groups)
	}
	tried, refused := 0, 0
	for name, forge := range map[string]func(*attempt.Identity){
		"no seal":                    func(i *attempt.Identity) { i.Seal = "" },
		"another user":               func(i *attempt.Identity) { i.UID = 1235 },
		"another group":              func(i *attempt.Identity) { i.GID = 1235 },
		"a group more":               func(i *attempt.Identity) { i.Groups = append(i.Groups, 27) },
		"a group less":               func(i *attempt.Identity) { i.Groups = i.Groups[:1] },
		"groups written together":    func(i *attempt.Identity) { i.GID, i.Groups = 123444, []int{5000} },
		"another submitter":          func(i *attempt.Identity) { i.Submitter = 1 },
		"another process":            func(i *attempt.Identity) { i.PID = 1 },
		"another source":             func(i *attempt.Identity) { i.Source = "amqp" },
		"no source":                  func(i *attempt.Identity) { i.Source = "" },
		"a user by way of the queue": func(i *attempt.Identity) { *i = attempt.Identity{UID: 1234, GID: 1234, Source: "amqp"} },
		"a group by way of it":       func(i *attempt.Identity) { *i = attempt.Identity{Groups: []int{27}, Source: "amqp"} },
	} {
		tried++
		r := good
		r.Identity.Groups = slices.Clone(good.Identity.Groups)
		forge(&r.Identity)
		if err := d.client.Start(t.Context(), r, transforms.Secrets{}); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		refused++
	}
	t.Logf("hostile: %d forged identities tried, %d refused", tried, refused)
	if err := d.client.Start(t.Context(), good, transforms.Secrets{}); err != nil {
		t.Errorf("the true one: %v", err)
	}
	waitEnded(t, d.client.Ended(Attempt{"job", 1}))
}

// The key outlives the daemon, since jobs do; a key that others can read is none.
func TestSealKey(t *testing.T) {
	dir := t.TempDir()
	first, err := loadSealKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadSealKey(dir)
	if err != nil || !slices.Equal(first, again) || len(first) != sealKeySize {
		t.Fatalf("%x, %x, %v", first, again, err)
	}
	path := filepath.Join(dir, "seal.key")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSealKey(dir); err == nil {
		t.Error("a key that a group can read was taken")
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 7)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSealKey(dir); err == nil {
		t.Error("half a key was taken")
	}
}

// The identity of those who are not to run anything.
func TestIdentify(t *testing.T) {
	d := startDaemon(t, testOptions(t))
	defer d.end(t)
	nobody := d.options.IDs.Base
	for _, tt := range []struct {
		who  peer.Credentials
		want attempt.Identity
		bad  bool
	}{
		{who: peer.Credentials{UID: 0, GID: 0, Groups: []int{0, 27}}, want: attempt.Identity{UID: nobody, GID: nobody}},
		{who: peer.Credentials{UID: 7, GID: 0, Groups: []int{0, 7}}, want: attempt.Identity{UID: 7, GID: nobody, Groups: []int{7}, Submitter: 7}},
		{who: peer.Credentials{UID: testUID}, bad: true},
		{who: peer.Credentials{UID: nobody + 70000}, bad: true},
		{who: peer.Credentials{UID: 7, GID: 8, Groups: []int{nobody + 5, 9}}, want: attempt.Identity{UID: 7, GID: 8, Groups: []int{9}, Submitter: 7}},
	} {
		got, err := d.identify(tt.who)
		if (err != nil) != tt.bad || got.UID != tt.want.UID || got.GID != tt.want.GID || got.Submitter != tt.want.Submitter || !slices.Equal(got.Groups, tt.want.Groups) {
			t.Errorf("%+v: %+v, %v", tt.who, got, err)
		}
	}
}

// A user keeps its slice for good; jobs of the queue take turns from the top.
func TestRanges(t *testing.T) {
	dir := t.TempDir()
	ids := IDRange{Base: 1 << 20, Size: 6 * sliceSize} // 5 slices
	r, err := loadRanges(dir, ids)
	if err != nil {
		t.Fatal(err)
	}
	take := func(owner string) int {
		t.Helper()
		slice, err := r.take(owner)
		if err != nil {
			t.Fatal(err)
		}
		return slice
	}
	if a, b, again := take("1"), take("2"), take("1"); a != 0 || b != 1 || again != a {
		t.Errorf("slices %d %d %d", a, b, again)
	}
	r.release(0)
	r.release(0)
	r.release(1)
	if r, err = loadRanges(dir, ids); err != nil {
		t.Fatal(err)
	}
	if got := take("2"); got != 1 {
		t.Errorf("after a restart: %d", got)
	}
	if x, y := take(""), take(""); x != 4 || y != 3 {
		t.Errorf("for nobody: %d %d", x, y)
	}
	r.release(4)
	if x := take(""); x != 2 {
		t.Errorf("used again although another is fresher: %d", x)
	}
	if x := take(""); x != 4 {
		t.Errorf("round: %d", x)
	}
	if _, err := r.take(""); err == nil {
		t.Error("more than there are")
	}
	if _, err := loadRanges(dir, IDRange{ids.Base, 2 * sliceSize}); err == nil {
		t.Error("a range without somebody's slice was taken")
	}
	if other, err := loadRanges(dir, IDRange{ids.Base + 1<<24, ids.Size}); err != nil || len(other.owners) > 0 {
		t.Errorf("another range: %v, %v", other, err)
	}
}

// The jobs of the queue have ids that nobody else has, and the daemon's never.
func TestQueueIdentity(t *testing.T) {
	o := testOptions(t)
	d := startDaemon(t, o)
	defer d.end(t)
	var uids []int
	for _, job := range []string{"a", "b"} {
		r := testRequest(job, 1, "wait")
		r.Identity = attempt.Identity{Source: "amqp"}
		if err := d.client.Start(t.Context(), r, transforms.Secrets{}); err != nil {
			t.Fatal(err)
		}
		dir, _ := attempt.NewDir(o.State, job, 1)
		waitFor(t, filepath.Join(dir.Path(), "ready"))
		got, err := dir.ReadRequest()
		if err != nil {
			t.Fatal(err)
		}
		if !o.IDs.contains(got.Identity.UID) || got.Identity.UID == o.IDs.Base || len(got.Identity.Groups) > 0 || got.Identity.UID != got.Identity.GID {
			t.Errorf("identity %+v", got.Identity)
		}
		uids = append(uids, got.Identity.UID)
	}
	if uids[0] == uids[1] {
		t.Errorf("both are %d", uids[0])
	}
	for _, job := range []string{"a", "b"} {
		ended := d.client.Ended(Attempt{job, 1})
		if err := d.client.Kill(t.Context(), Attempt{job, 1}); err != nil {
			t.Fatal(err)
		}
		waitEnded(t, ended)
	}
}
