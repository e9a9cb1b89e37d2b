package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

const attackCommand = "attack"

// victim is a submitter of these tests alone: others on the machine may run tests
// of a program that is easier to look into.
const victim = submitter + 5

var ofVictim = fmt.Appendf(nil, "\x00%s\x00%d\x00", TransferCommand, victim)

// attack is a program of the submitter's that tries, until its standard input
// ends, to look into each new transfer process. It prints how often it was denied
// that, or that it was not.
func attack() int {
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	denied := 0
	for {
		select {
		case <-over:
			fmt.Println("denied", denied)
			return 0
		default:
		}
		load, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			fmt.Println(err)
			return 1
		}
		last, err := strconv.Atoi(string(load[bytes.LastIndexByte(load, ' ')+1 : len(load)-1]))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		// A process has several threads, and the next is to come.
		for pid := max(2, last-8); pid <= last+1; pid++ {
			for what, try := range map[string]func(pid int) error{
				"environ": func(pid int) error { return tryOpen(pid, "environ", os.O_RDONLY) },
				"mem":     func(pid int) error { return tryOpen(pid, "mem", os.O_RDWR) },
				"fd":      func(pid int) error { return tryOpen(pid, "fd", os.O_RDONLY) },
				"attach":  tryAttach,
			} {
				err := try(pid)
				// The name comes second: it must have been this program by then.
				line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				switch {
				case !bytes.Contains(line, ofVictim):
				case err == nil:
					fmt.Printf("looked into %d by %s\n", pid, what)
					return 0 // which lets go of it
				case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
					denied++
				}
			}
		}
	}
}

func tryOpen(pid int, name string, flags int) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, name), flags, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func tryAttach(pid int) error {
	// Another attacker would stand still for ever.
	if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !bytes.Contains(line, ofVictim) {
		return unix.ESRCH
	}
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// TestSubmitterLooksIn: from its first instruction on no other process of the
// submitter can look into the transfer process, which has tokens in its memory.
func TestSubmitterLooksIn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it starts processes as others")
	}
	type attacker struct {
		*exec.Cmd
		stdin  io.Closer
		stdout bytes.Buffer
	}
	var attackers []*attacker
	for range 2 {
		a := &attacker{Cmd: exec.Command("/proc/self/exe", attackCommand)}
		a.Cmd.Stdout, a.Cmd.Stderr = &a.stdout, os.Stderr
		a.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: victim, Gid: group, Groups: []uint32{group}}}
		stdin, err := a.StdinPipe()
		if err == nil {
			err = a.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		a.stdin = stdin
		attackers = append(attackers, a)
	}
	for range 50 {
		p, err := startTransfer(attempt.Identity{UID: victim, GID: group, Groups: []int{group}}, &attempt.Grant{})
		if err != nil {
			t.Fatal(err)
		}
		// It answers, so it has got past its start.
		if err := p.tell(t.Context(), message{Op: opRemove, Made: &attempt.HostVolume{Path: "/nonexistent/volume"}}, nil); err != nil {
			t.Error(err)
		}
		p.end()
	}
	for _, a := range attackers {
		a.stdin.Close()
		if err := a.Wait(); err != nil {
			t.Error(err)
		}
		out := a.stdout.String()
		if !strings.HasPrefix(out, "denied ") || out == "denied 0\n" {
			t.Errorf("a program of the submitter's: %s", out)
		} else {
			t.Log(out)
		}
	}
}

// TestSubmitterProcess: who the transfer process is, and what it cannot become.
func TestSubmitterProcess(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it starts processes as others")
	}
	p, err := startTransfer(attempt.Identity{UID: victim, GID: group, Groups: []int{group, group + 1}}, &attempt.Grant{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.end()
	if err := p.tell(t.Context(), message{Op: opRemove, Made: &attempt.HostVolume{Path: "/nonexistent/volume"}}, nil); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	same := func(id int) string { return strings.TrimSuffix(strings.Repeat(fmt.Sprintf("%d\t", id), 4), "\t") }
	for _, want := range []string{
		"\nUid:\t" + same(victim) + "\n", "\nGid:\t" + same(group) + "\n", fmt.Sprintf("\nGroups:\t%d %d \n", group, group+1),
		"\nNoNewPrivs:\t1\n", "\nCapPrm:\t0000000000000000\n", "\nCapEff:\t0000000000000000\n", "\nCapBnd:\t0000000000000000\n", "\nCapAmb:\t0000000000000000\n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status is\n%s\nwithout %q", status, want)
		}
	}
}
