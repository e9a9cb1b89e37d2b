package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"girderworker/sandbox"
)

// Usage reads what the group and the groups below it consumed so far. Values
// that the kernel does not offer, and all values of a group that does not
// exist, are 0. On v1 OOMKills counts the group's own processes only.
func (g Group) Usage() (sandbox.Usage, error) {
	read := g.usageV1
	if dir, ok := g.unifiedDir(); ok {
		read = func() (sandbox.Usage, error) { return usageV2(dir) }
	}
	u, err := read()
	if err != nil {
		return u, fmt.Errorf("cannot read the usage of the control group %s: %w", g.path, err)
	}
	return u, nil
}

func usageV2(dir string) (u sandbox.Usage, err error) {
	cpu, err := readKeyed(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return u, err
	}
	u.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	if u.PeakMemory, err = readNumber(filepath.Join(dir, "memory.peak")); err != nil {
		return u, err
	}
	events, err := readKeyed(filepath.Join(dir, "memory.events"))
	if err != nil {
		return u, err
	}
	u.OOMKills = int64(events["oom_kill"])

	// One line a device: "8:0 rbytes=1 wbytes=2 rios=3 ...".
	data, err := readFile(filepath.Join(dir, "io.stat"))
	if err != nil {
		return u, err
	}
	for field := range strings.FieldsSeq(data) {
		name, value, _ := strings.Cut(field, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "rbytes":
			u.ReadBytes += n
		case "wbytes":
			u.WriteBytes += n
		}
	}
	return u, nil
}

func (g Group) usageV1() (u sandbox.Usage, err error) {
	cpu, err := readNumber(g.file("cpuacct", "cpuacct.usage"))
	if err != nil {
		return u, err
	}
	u.CPU = time.Duration(cpu)
	if u.PeakMemory, err = readNumber(g.file("memory", "memory.max_usage_in_bytes")); err != nil {
		return u, err
	}
	if file := g.file("memory", "memory.oom_control"); file != "" {
		control, err := readKeyed(file)
		if err != nil {
			return u, err
		}
		u.OOMKills = int64(control["oom_kill"])
	}

	// One line a device and direction: "8:0 Read 4096".
	if file := g.file("blkio", "blkio.throttle.io_service_bytes_recursive"); file != "" {
		data, err := readFile(file)
		if err != nil {
			return u, err
		}
		for line := range strings.Lines(data) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue
			}
			n, err := strconv.ParseInt(fields[2], 10, 64)
			if err != nil {
				continue
			}
			switch fields[1] {
			case "Read":
				u.ReadBytes += n
			case "Write":
				u.WriteBytes += n
			}
		}
	}
	return u, nil
}

// readNumber reads a control file of one number; 0 when it is gone or has no
// name.
func readNumber(file string) (int64, error) {
	if file == "" {
		return 0, nil
	}
	data, err := readFile(file)
	if err != nil || data == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(data), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return n, nil
}
