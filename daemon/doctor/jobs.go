package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
	"girderworker/transforms"
)

// transfers is where what the worker moves for jobs may lead. The Girder that a
// task comes from needs no leave, and everything else does.
func (p *patient) transfers(ctx context.Context) (all []Finding) {
	if p.rules == nil {
		return skip("the policy cannot be read")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, source := range []string{policy.Socket, policy.AMQP} {
		to := p.rules.For(policy.Subject{Source: source, UID: -1}).Transfers()
		if len(to) == 0 {
			all = append(all, ok("[%s] of the policy: to a task's own Girder alone", source)...)
			continue
		}
		all = append(all, ok("[%s] of the policy: a task's own Girder, and %s", source, strings.Join(to, ", "))...)
		for _, entry := range to {
			d, err := sandbox.ParseDestination(entry)
			if err != nil || entry == sandbox.LocalServices || d.Name == "" || strings.Contains(d.Name, "*") {
				continue // an address, or a word that means many
			}
			if p.Offline {
				all = append(all, skip("not looked up, as another machine would be asked: %s", d.Name)...)
			} else if _, err := net.DefaultResolver.LookupHost(ctx, d.Name); err != nil {
				all = append(all, warn("mend transfers in "+p.config.PolicyFile+", or the name service", "[%s] allows transfers with %s, a name that leads nowhere: %v", source, d.Name, err)...)
			}
		}
	}
	return all
}

// girderKey is the machine's own API key: that it can be used, and that somebody may.
func (p *patient) girderKey(context.Context) []Finding {
	url, file := p.config.GirderURL, p.config.GirderKeyFile
	lent := p.rules != nil && p.rules.LendsGirderKey()
	switch {
	case url == "" && lent:
		return warn("set girder_url and girder_key_file in worker.local.cfg, or remove girder_key from the policy", "the policy lends a key of Girder, and this machine has none")
	case url == "":
		return ok("none: jobs work in Girder with tokens of their own")
	}
	_, err := policy.ReadGirderKey(file)
	switch {
	case denied(err) && !p.root:
		return unseen("the machine's key of Girder")
	case errors.Is(err, os.ErrNotExist):
		return bad("as root: `install -m 0600 /dev/stdin "+file+"`, then the key alone", "there is no %s: jobs that work with the machine's key are refused", file)
	case err != nil:
		return bad("as root: `chown root "+file+"; chmod 0600 "+file+"`; it holds the key and nothing else", "%v: jobs that work with the machine's key are refused", err)
	case p.rules != nil && !lent:
		return warn("girder_key = true below [group.NAME] or [user.NAME] in "+p.config.PolicyFile, "%s has a key for %s, and the policy lends it to nobody", file, url)
	}
	return ok("%s, for %s", file, url)
}

// room is how many jobs that name no limits fit at a time.
func (p *patient) room(context.Context) []Finding {
	if p.unknown != nil {
		return skip("%v", p.unknown)
	}
	m, l := p.config.Machine, p.config.Limits
	var st unix.Statfs_t
	if err := unix.Statfs(p.place(), &st); err != nil {
		return bad("", "cannot look at the file system of %s: %v", p.place(), err)
	}
	// What jobs have not written yet of the disks that they have is theirs.
	free := int64(st.Bavail) * st.Bsize
	text := fmt.Sprintf("a job that names no limits gets %g cpus, %s of memory and %s to write to", l.CPUs, transforms.FormatBytes(l.Memory), transforms.FormatBytes(l.Scratch))
	fits, short := m.Slots, ""
	for _, one := range []struct {
		n    float64
		what string
	}{
		{m.CPUs / l.CPUs, fmt.Sprintf("%g cpus (girder_worker.cpus, limits.cpus)", m.CPUs)},
		{float64(m.Memory) / float64(l.Memory), transforms.FormatBytes(m.Memory) + " of memory (girder_worker.memory, limits.memory)"},
		{float64(free) / float64(l.Scratch), transforms.FormatBytes(free&^0xfffff) + " of disk that are free (limits.scratch)"},
	} {
		if n := int(one.n + 1e-9); n < fits {
			fits, short = n, one.what
		}
	}
	const hint = "make room, raise what all jobs may have, lower the limit of one, or have jobs name less"
	switch {
	case fits == 0:
		return bad(hint, "%s: not one fits into %s", text, short)
	case fits < m.Slots:
		return warn(hint, "%s: %d fit into %s, and there are %d slots", text, fits, short, m.Slots)
	}
	return ok("%s: %d slots, and as many fit", text, m.Slots)
}

// swap is what a job may ask of it: no more than the machine has.
func (p *patient) swap(context.Context) []Finding {
	if p.unknown != nil {
		return skip("%v", p.unknown)
	}
	have := p.config.Hardware.Swap
	if have == 0 {
		return ok("the machine has none: a job that asks for swap is refused, and none other gets any")
	}
	if !cgroup.Unified() {
		if _, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"); err != nil {
			return warn("boot with swapaccount=1, or with systemd.unified_cgroup_hierarchy=1", "%s, which this kernel does not count: jobs are not held to what they asked for", transforms.FormatBytes(have))
		}
	}
	return ok("%s, for jobs that ask for it", transforms.FormatBytes(have))
}

// tasks are what can be asked for by a name, and what was left out of it.
func (p *patient) tasks(ctx context.Context) (all []Finding) {
	if p.status == nil {
		return skip("the daemon does not answer")
	}
	found, err := p.client.Tasks(ctx)
	if err != nil {
		return bad("", "%v", err)
	}
	for _, text := range found.Problems {
		all = append(all, warn("mend it; the daemon looks again by itself, and `girder-worker tasks` tells", "cannot be used: %s", text)...)
	}
	return append(all, ok("%d, of %s and of Python packages", len(found.Tasks), p.config.TasksDir)...)
}

// python looks whether nobody, as whom packages are imported, can get at each
// interpreter that is configured.
func (p *patient) python(context.Context) (all []Finding) {
	const venv = "`python3 -m venv DIRECTORY`, which all may read, and girder_worker.python names it"
	for _, program := range p.config.Interpreters() {
		real, err := filepath.EvalSymlinks(program)
		if err != nil {
			all = append(all, bad(venv, "cannot use an interpreter: %v", err)...)
			continue
		}
		found := reachable(program, venv)
		if found == nil && real != program {
			found = reachable(real, venv)
		}
		if err := policy.CheckPython(program, p.config.Python.LoadPath); found == nil && denied(err) {
			found = unseen(program)
		} else if found == nil && err != nil {
			found = bad("its tasks are refused until then", "%v", err)
		}
		if found == nil {
			found = ok("%s", program)
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return ok("no interpreter is configured: there are no tasks in Python")
	}
	if p.config.Celery.Broker != "" {
		text, err := policy.Read(p.config.PolicyFile)
		if err != nil {
			return all // told by the check of the policy
		}
		rules, err := policy.Parse(p.config.PolicyFile, text, policy.SystemNames())
		if err == nil && !rules.For(policy.Subject{Source: policy.AMQP}).Python() {
			all = append(all, warn("`python = true` in [amqp] of "+p.config.PolicyFile+", if whoever can write to the queue may call them", "tasks from the message queue may call no function")...)
		}
	}
	return all
}

// reachable tells what keeps those who are not root from running a program; nil: nothing.
func reachable(program, hint string) []Finding {
	for path := program; ; path = filepath.Dir(path) {
		st, err := os.Stat(path)
		switch {
		case err != nil:
			return bad(hint, "cannot use an interpreter: %v", err)
		case path == program && (!st.Mode().IsRegular() || st.Mode()&0o001 == 0):
			return bad(hint, "%s is no program that everybody may run: its mode is %04o", program, st.Mode().Perm())
		case st.Mode()&0o001 == 0:
			return bad("chmod o+x "+path, "not everybody gets to %s: the mode of %s is %04o", program, path, st.Mode().Perm())
		}
		if path == "/" {
			return nil
		}
	}
}
