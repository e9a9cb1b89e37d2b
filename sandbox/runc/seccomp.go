//go:build linux && cgo && seccomp

package runc

import (
	"fmt"
	"io"
	"os"
	"slices"

	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// filter is a compiled seccomp filter.
type filter struct {
	flags   uint32
	program []byte // of struct sock_filter, in the machine's byte order
}

// sizeofSockFilter is that of struct sock_filter.
const sizeofSockFilter = 8

// compileFilter compiles Docker's default profile, as it is for a process with
// these capabilities on this machine and kernel, for all architectures that
// the machine runs. It takes about 20 ms.
func compileFilter(capabilities []string, noSetUID bool) (*filter, error) {
	p, err := profile.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot build the default seccomp profile: %w", err)
	}
	if noSetUID {
		refuseSetUID(p)
	}
	rules, err := translate(p)
	if err != nil {
		return nil, fmt.Errorf("cannot translate the seccomp profile: %w", err)
	}
	defer rules.Release()
	stub, err := enosysStub(p)
	if err != nil {
		return nil, fmt.Errorf("cannot translate the seccomp profile: %w", err)
	}
	compiled, err := export(rules)
	if err != nil {
		return nil, fmt.Errorf("cannot compile the seccomp profile: %w", err)
	}
	program := append(stub, compiled...)
	if n := len(program) / sizeofSockFilter; n > unix.BPF_MAXINSNS {
		return nil, fmt.Errorf("cannot compile the seccomp profile: %d instructions are more than the kernel takes", n)
	}
	f := &filter{program: program}
	// Without this flag the kernel would slow the process down with mitigations
	// of speculation that it does not need; libcontainer's default as well.
	if level, err := libseccomp.GetAPI(); err == nil && level >= 4 {
		f.flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	return f, nil
}

// refuseSetUID takes away from a profile every way to make a file setuid. Which
// way openat2 means is in memory, where a filter cannot look, so it is not there
// at all, and programs do as on kernels that never had it. Where no file is made
// the mode of open is what happens to be in the register.
func refuseSetUID(p *specs.LinuxSeccomp) {
	const making = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	modeAt := map[string]uint{
		"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2, "open": 2, "openat": 3,
	}
	zero := func(arg uint, mask uint64) []specs.LinuxSeccompArg {
		return []specs.LinuxSeccompArg{{Index: arg, Value: mask, ValueTwo: 0, Op: specs.OpMaskedEqual}}
	}
	var kept []specs.LinuxSyscall
	allow := func(name string, args []specs.LinuxSeccompArg) {
		kept = append(kept, specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args})
	}
	for _, rule := range p.Syscalls {
		if rule.Action != specs.ActAllow {
			kept = append(kept, rule)
			continue
		}
		var others []string
		for _, name := range rule.Names {
			mode, isOne := modeAt[name]
			switch {
			case name == "openat2":
			case !isOne:
				others = append(others, name)
			case len(rule.Args) == 0:
				allow(name, zero(mode, unix.S_ISUID))
				if name == "open" || name == "openat" {
					allow(name, zero(mode-1, making))
				}
			}
		}
		if rule.Names = others; len(others) > 0 {
			kept = append(kept, rule)
		}
	}
	none := uint(unix.ENOSYS)
	p.Syscalls = append(kept, specs.LinuxSyscall{Names: []string{"openat2"}, Action: specs.ActErrno, ErrnoRet: &none})
}

// translate makes libseccomp's form of a profile.
func translate(p *specs.LinuxSeccomp) (_ *libseccomp.ScmpFilter, err error) {
	defaultAction, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	f, err := libseccomp.NewFilter(defaultAction)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Release()
		}
	}()
	for _, name := range p.Architectures {
		arch, err := libseccomp.GetArchFromString(archNames[name])
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
		if err := f.AddArch(arch); err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
	}
	// A binary tree over system call numbers instead of a list. Old versions of
	// libseccomp cannot, and do without.
	_ = f.SetOptimize(2)
	if err := f.SetNoNewPrivsBit(false); err != nil {
		return nil, err
	}
	for _, rule := range p.Syscalls {
		act, err := action(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, err
		}
		if act == defaultAction {
			continue
		}
		for _, name := range rule.Names {
			number, err := libseccomp.GetSyscallFromName(name)
			if err != nil {
				continue // newer than this libseccomp: the default action holds
			}
			if err := addRule(f, number, act, rule.Args); err != nil {
				return nil, fmt.Errorf("system call %s: %w", name, err)
			}
		}
	}
	return f, nil
}

// addRule adds one system call. All conditions must hold; but conditions on
// the same argument are alternatives, as every runtime has it.
func addRule(f *libseccomp.ScmpFilter, number libseccomp.ScmpSyscall, act libseccomp.ScmpAction, args []specs.LinuxSeccompArg) error {
	if len(args) == 0 {
		return f.AddRule(number, act)
	}
	var conditions []libseccomp.ScmpCondition
	var indices []uint
	for _, arg := range args {
		op, ok := operators[arg.Op]
		if !ok {
			return fmt.Errorf("unknown operator %q", arg.Op)
		}
		condition, err := libseccomp.MakeCondition(arg.Index, op, arg.Value, arg.ValueTwo)
		if err != nil {
			return err
		}
		conditions = append(conditions, condition)
		indices = append(indices, arg.Index)
	}
	slices.Sort(indices)
	if len(slices.Compact(indices)) == len(args) {
		return f.AddRuleConditional(number, act, conditions)
	}
	for _, condition := range conditions {
		if err := f.AddRuleConditional(number, act, []libseccomp.ScmpCondition{condition}); err != nil {
			return err
		}
	}
	return nil
}

// action is libseccomp's form of an action. The default profile uses two.
func action(a specs.LinuxSeccompAction, errno *uint) (libseccomp.ScmpAction, error) {
	switch a {
	case specs.ActAllow:
		return libseccomp.ActAllow, nil
	case specs.ActErrno:
		code := int16(unix.EPERM)
		if errno != nil {
			code = int16(*errno)
		}
		return libseccomp.ActErrno.SetReturnCode(code), nil
	}
	return libseccomp.ActInvalid, fmt.Errorf("unknown action %q", a)
}

// export has libseccomp write the program, which it does to a file only.
func export(f *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "seccomp")
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

// operators and archNames translate the profile's words to libseccomp's.
var (
	operators = map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
		specs.OpNotEqual:     libseccomp.CompareNotEqual,
		specs.OpLessThan:     libseccomp.CompareLess,
		specs.OpLessEqual:    libseccomp.CompareLessOrEqual,
		specs.OpEqualTo:      libseccomp.CompareEqual,
		specs.OpGreaterEqual: libseccomp.CompareGreaterEqual,
		specs.OpGreaterThan:  libseccomp.CompareGreater,
		specs.OpMaskedEqual:  libseccomp.CompareMaskedEqual,
	}
	archNames = map[specs.Arch]string{
		specs.ArchX86:     "x86",
		specs.ArchX86_64:  "amd64",
		specs.ArchX32:     "x32",
		specs.ArchARM:     "arm",
		specs.ArchAARCH64: "arm64",
	}
)
