package runner

import (
	"strings"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// TestFillers: whatever a job fills is its own, and full long before the machine.
func TestFillers(t *testing.T) {
	const fill = "dd if=/dev/zero of=$where/f bs=64k 2>/dev/null; stat -c %s $where/f; exit 3"
	for _, test := range []struct {
		name, where, script string
		change              func(*attempt.Request)
		most                int64 // bytes
		full                bool  // the scratch space is
	}{
		{"the image's root", "", fill, nil, 20 << 20, true},
		{"a volume", "/v", fill, func(r *attempt.Request) {
			r.Plan.Volumes = []transforms.Volume{{Name: "v", Target: "/v"}}
		}, 20 << 20, true},
		{"files", "", "i=0; while (: > /$i) 2>/dev/null; do i=$((i+1)); done; echo $i; exit 3", nil, 4096, true},
		{"/dev/shm", "/dev/shm", fill, nil, 1 << 20, false},
		{"a tmpfs", "/t", fill, func(r *attempt.Request) {
			r.Plan.Options.Tmpfs = []transforms.Tmpfs{{Target: "/t", Size: 2 << 20}}
		}, 2 << 20, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, sh("where="+test.where+"; "+test.script)...)
			w.request.Resources.Scratch = 16 << 20
			if test.change != nil {
				test.change(w.request)
			}
			exit := w.run()
			var n int64
			for _, c := range strings.TrimSpace(w.log()) {
				n = n*10 + int64(c-'0')
			}
			if exit.Code != 3 || n < 100 || n > test.most {
				t.Errorf("%+v, there was room for %d; log %q", exit, n, w.log())
			}
			if told := strings.Contains(w.notes(), "scratch space of 16.0 MiB was full"); told != test.full {
				t.Errorf("notes: %q", w.notes())
			}
		})
	}
}

// TestForkBomb: it cannot have more processes than the job may, another job runs
// beside it, and it ends when somebody says so.
func TestForkBomb(t *testing.T) {
	w := newWorld(t, sh("(b() { b | b & b; }; b) & while :; do :; done")...)
	p := w.start()
	w.waitLog("fork")
	if exit := newWorld(t, "true").run(); exit.Code != 0 {
		t.Errorf("a job beside the bomb: %+v", exit)
	}
	w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled, Grace: -1})
	if exit := w.end(p); exit.Outcome != attempt.OutcomeCanceled {
		t.Errorf("%+v", exit)
	}
}

// TestOptions: each has its effect in the container.
func TestOptions(t *testing.T) {
	for _, test := range []struct {
		name    string
		options transforms.Options
		script  string
		want    string
	}{
		{"cap_drop", transforms.Options{CapDrop: []string{"ALL"}}, "grep -E 'Cap(Eff|Bnd)' /proc/self/status", "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"},
		{"cap_add", transforms.Options{CapDrop: []string{"ALL"}, CapAdd: []string{"CAP_SYS_CHROOT"}}, "grep CapEff /proc/self/status", "CapEff:\t0000000000040000\n"},
		{"group_add", transforms.Options{GroupAdd: []string{"44"}}, "id -G | tr ' ' '\\n' | grep -x 44", "44\n"},
		{"tmpfs", transforms.Options{Tmpfs: []transforms.Tmpfs{{Target: "/run/x", Size: 1 << 20, Mode: 0o750}}}, "stat -c %a /run/x; grep -c ' /run/x tmpfs rw,nosuid,nodev,noexec' /proc/mounts", "750\n1\n"},
		{"ulimits", transforms.Options{Ulimits: []transforms.Ulimit{{Name: "nofile", Soft: 32, Hard: 64}, {Name: "core", Soft: -1, Hard: -1}}}, "ulimit -n; ulimit -Hn; ulimit -c", "32\n64\nunlimited\n"},
		{"sysctls", transforms.Options{Sysctls: map[string]string{"kernel.msgmax": "4242"}}, "cat /proc/sys/kernel/msgmax", "4242\n"},
		{"domainname", transforms.Options{Domainname: "lab"}, "cat /proc/sys/kernel/domainname", "lab\n"},
		{"oom_score_adj", transforms.Options{OOMScoreAdj: 777}, "cat /proc/self/oom_score_adj", "777\n"},
		{"devices", transforms.Options{Devices: []transforms.Device{{Source: "/dev/zero", Target: "/dev/mine", Access: "r"}}}, "head -c 3 /dev/mine | wc -c", "3\n"},
		{"seccomp", transforms.Options{Seccomp: "unconfined"}, "grep -w Seccomp /proc/self/status", "Seccomp:\t0\n"},
		{"none", transforms.Options{}, "grep -w Seccomp /proc/self/status", "Seccomp:\t2\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, sh(test.script)...)
			w.request.Plan.Options = test.options
			if exit := w.run(); exit.Code != 0 || w.log() != test.want {
				t.Errorf("%+v, log %q, want %q", exit, w.log(), test.want)
			}
		})
	}
}

// TestUnmovedSignalIsNotWaitedFor: sleep, as a container's first process, gets no
// SIGTERM; the grace of an hour would change nothing.
func TestUnmovedSignalIsNotWaitedFor(t *testing.T) {
	w := newWorld(t, sh("echo up; exec sleep 1000")...)
	w.request.Plan.StopGrace = 1 << 41 // about 36 minutes
	p := w.start()
	w.waitLog("up")
	w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled})
	if exit := w.end(p); exit.Outcome != attempt.OutcomeCanceled {
		t.Errorf("%+v", exit)
	}
}
