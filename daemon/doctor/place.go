package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (p *patient) disk(context.Context) (all []Finding) {
	place := p.place()
	var st unix.Statfs_t
	if err := unix.Statfs(place, &st); err != nil {
		return bad("", "cannot look at the file system of %s: %v", place, err)
	}
	size, free := int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize)
	text := fmt.Sprintf("%.1f of %.1f GiB are free at %s", float64(free)/(1<<30), float64(size)/(1<<30), place)
	const hint = "`girder-worker images prune`, `girder-worker rm`, or a larger disk for state_dir"
	switch {
	case free < 256<<20:
		all = bad(hint, "%s: no job starts without room", text)
	case free < 5<<30 && free < size/10:
		all = warn(hint, "%s", text)
	default:
		all = ok("%s", text)
	}
	if st.Files > 0 && st.Ffree < 10_000 {
		all = append(all, bad(hint, "only %d more files fit there", st.Ffree)...)
	}
	return all
}

// latency measures what every commit of the queue waits for.
func (p *patient) latency(context.Context) []Finding {
	f, err := os.CreateTemp(p.place(), ".doctor-")
	if denied(err) {
		return unseen("what a write costs; girder_worker_store_commit_duration_seconds in /metrics tells, too")
	}
	if err != nil {
		return bad("", "cannot write to %s: %v", p.place(), err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for i := range 15 {
		begun := time.Now()
		if _, err = f.WriteAt(make([]byte, 4096), int64(i)*4096); err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != nil {
			return bad("look for errors of the disk in `dmesg`", "cannot write to %s: %v", p.place(), err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	text := fmt.Sprintf("a write to the disk takes %v, at most %v", median.Round(10*time.Microsecond), worst.Round(10*time.Microsecond))
	if median > 100*time.Millisecond {
		return warn("the disk is busy or failing; jobs start late: put state_dir on another", "%s", text)
	}
	return ok("%s", text)
}

func (p *patient) clock(context.Context) (all []Finding) {
	// What was written last cannot be of the future.
	newest := time.Time{}
	for _, name := range []string{"queue/queue.db", "audit.jsonl", "images/names.json", "jobs", "spool"} {
		if st, err := os.Stat(filepath.Join(p.config.StateDir, name)); err == nil && st.ModTime().After(newest) {
			newest = st.ModTime()
		}
	}
	const hint = "set the clock, and start systemd-timesyncd or chrony"
	if ahead := time.Until(newest); ahead > time.Minute {
		return bad(hint, "the clock was set back: the daemon's files are %v ahead of it; limits, retries and reports wait for it", ahead.Round(time.Second))
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	const unsynchronised = 0x40 // STA_UNSYNC
	switch {
	case err != nil:
		return warn("", "cannot ask for the clock's state: %v", err)
	case state == 5 || t.Status&unsynchronised != 0: // TIME_ERROR
		return warn(hint+"; on a machine without a network a clock that is roughly right will do", "%s, not synchronised: signatures, tokens and times in Girder may be off", time.Now().Format(time.RFC3339))
	}
	return ok("synchronised, within %v", time.Duration(t.Maxerror)*time.Microsecond)
}

// groups are those that the configuration names, and one's own.
func (p *patient) groups(context.Context) (all []Finding) {
	const hint = "install the package again, or `systemd-sysusers`, or name another in worker.cfg"
	for _, want := range []struct{ key, name string }{{"user", p.config.User}, {"group", p.config.Group}, {"admin_group", p.config.AdminGroup}} {
		if _, err := strconv.Atoi(want.name); err == nil {
			continue // a number needs no entry
		}
		var err error
		if want.key == "user" {
			_, err = user.Lookup(want.name)
		} else {
			_, err = user.LookupGroup(want.name)
		}
		switch {
		case err == nil:
		case want.key == "admin_group":
			all = append(all, warn("groupadd --system "+want.name+"; without it only root sees all jobs", "there is no group %q (admin_group)", want.name)...)
		default:
			all = append(all, bad(hint, "there is no %s %q", want.key, want.name)...)
		}
	}
	if g, err := user.LookupGroup(p.config.Group); err == nil && !p.root {
		gid, _ := strconv.Atoi(g.Gid)
		mine, _ := os.Getgroups()
		me, err := user.Current()
		if err == nil && gid != os.Getegid() && !slices.Contains(mine, gid) {
			listed, _ := me.GroupIds()
			if slices.Contains(listed, g.Gid) {
				all = append(all, warn("log out and in again, or `newgrp "+g.Name+"`", "you are in the group %s, and this session began before", g.Name)...)
			} else {
				all = append(all, warn("the admin runs `usermod -aG "+g.Name+" "+me.Username+"`, then log in again", "you are not in the group %s, whose members may submit", g.Name)...)
			}
		}
	}
	if len(all) == 0 {
		return ok("user %s, group %s, admin group %s", p.config.User, p.config.Group, p.config.AdminGroup)
	}
	return all
}

// ids looks for somebody who has an id that containers get.
func (p *patient) ids(context.Context) []Finding {
	r := p.config.IDs
	for _, file := range []struct {
		path        string
		first, size int
	}{{"/etc/passwd", 2, -1}, {"/etc/group", 2, -1}, {"/etc/subuid", 1, 2}, {"/etc/subgid", 1, 2}} {
		f, err := os.Open(file.path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return skip("cannot read %s: %v", file.path, err)
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			fields := strings.Split(s.Text(), ":")
			if len(fields) <= max(file.first, file.size) {
				continue
			}
			first, err := strconv.Atoi(fields[file.first])
			size := 1
			if err == nil && file.size >= 0 {
				size, err = strconv.Atoi(fields[file.size])
			}
			if err == nil && first < r.Base+r.Size && r.Base < first+size {
				return bad("choose another range with id_base and id_size", "%s gives %s an id from %d to %d, which are the containers'", file.path, fields[0], r.Base, r.Base+r.Size-1)
			}
		}
	}
	return ok("%d to %d are nobody else's", r.Base, r.Base+r.Size-1)
}

func (p *patient) socket(context.Context) []Finding {
	st, err := os.Stat(p.Socket)
	switch {
	case denied(err):
		return bad("ask the admin for the group "+p.config.Group, "no way to %s: %v", p.Socket, err)
	case err != nil:
		return bad("`systemctl start girder-worker.socket`, or name another with --socket", "%v", err)
	case st.Mode()&os.ModeSocket == 0:
		return bad("remove it and start the daemon", "%s is no socket", p.Socket)
	case st.Mode().Perm()&0o007 != 0:
		return bad("`systemctl restart girder-worker.socket`; in its unit, SocketMode=0660", "everybody may use %s: its mode is %04o", p.Socket, st.Mode().Perm())
	}
	if err := unix.Access(p.Socket, unix.W_OK); err != nil {
		return bad("the admin adds you to the group "+p.config.Group+", then log in again", "you may not use %s", p.Socket)
	}
	return ok("%s, mode %04o", p.Socket, st.Mode().Perm())
}
