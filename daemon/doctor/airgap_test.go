package doctor

import (
	"bytes"
	"debug/elf"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAttempts: the count that proves that nobody asked for another machine moves
// when somebody does, and not for a loopback address.
func TestAttempts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may leave the network")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		if err := loopbackUp(); err != nil {
			t.Error(err)
			return
		}
		if names, err := elsewhere(); err != nil || len(names) > 0 {
			t.Errorf("%v, %v", names, err)
		}
		last, err := attempts()
		if err != nil {
			t.Error(err)
			return
		}
		for _, one := range []struct {
			address unix.Sockaddr
			kind    int
			counts  bool
		}{
			{&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9}, unix.SOCK_STREAM, false},
			{&unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 80}, unix.SOCK_STREAM, true},
			{&unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: 53}, unix.SOCK_DGRAM, true},
			{&unix.SockaddrInet6{Addr: [16]byte(net.ParseIP("2001:db8::1")), Port: 80}, unix.SOCK_STREAM, true},
		} {
			family := unix.AF_INET
			if _, six := one.address.(*unix.SockaddrInet6); six {
				family = unix.AF_INET6
			}
			fd, err := unix.Socket(family, one.kind, 0)
			if err != nil {
				t.Error(err)
				continue
			}
			err = unix.Connect(fd, one.address)
			unix.Close(fd)
			now, countErr := attempts()
			if countErr != nil || now > last != one.counts {
				t.Errorf("%v: %d attempts after %d (connect: %v, %v)", one.address, now, last, err, countErr)
			}
			last = now
		}
	}()
	<-done
}

// TestProgram: the built-in program is one of each machine, and this machine's
// says what it should.
func TestProgram(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		f, err := elf.NewFile(bytes.NewReader(program(arch)))
		if err != nil || f.Machine != machine || len(f.Progs) != 1 {
			t.Errorf("%s: %v, %v", arch, f, err)
		}
	}
	if program("z80") != nil {
		t.Error("a program for a machine that nobody has")
	}
	code := program(runtime.GOARCH)
	if code == nil {
		t.Skip("no built-in program for " + runtime.GOARCH)
	}
	path := t.TempDir() + "/doctor"
	if err := os.WriteFile(path, code, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || string(out) != greeting {
		t.Errorf("%q, %v", out, err)
	}
}
