package config

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Fill replaces what the configuration left to the machine: slots, processors,
// memory, and from them the limits of a job that names none. StateDir must
// exist.
func (c *Config) Fill() error {
	cpus := runtime.NumCPU()
	memory, swap, err := totalMemory()
	if err != nil {
		return err
	}
	scratch, err := fileSystemSize(c.StateDir)
	if err != nil {
		return err
	}
	c.fill(cpus, memory, scratch)
	c.Hardware.Swap = swap
	return nil
}

func (c *Config) fill(cpus int, memory, fileSystem int64) {
	m, l := &c.Machine, &c.Limits
	c.Hardware = Hardware{CPUs: float64(cpus), Memory: memory, Disk: fileSystem / 2}
	if m.CPUs == 0 {
		m.CPUs = float64(cpus)
	}
	if m.Memory == 0 {
		m.Memory = memory / 10 * 8
	}
	if m.Slots == 0 {
		m.Slots = min(max(1, cpus/2), MaxSlots, c.IDs.Slices())
	}
	if l.CPUs == 0 {
		l.CPUs = min(m.CPUs/float64(m.Slots), float64(cpus))
	}
	if l.Memory == 0 {
		// Whole pages, or the kernel's own rounding would differ from ours.
		l.Memory = min(m.Memory/int64(m.Slots), memory) &^ 4095
	}
	if l.Scratch == 0 {
		// As many as there are slots find room on a disk that is a fifth full.
		l.Scratch = min(fileSystem/10, fileSystem/10*8/int64(m.Slots)) &^ 4095
	}
	l.Scratch, l.Log = min(l.Scratch, c.Hardware.Disk), min(l.Log, c.Hardware.Disk)
}

// totalMemory is the machine's, and its swap, in bytes.
func totalMemory() (memory, swap int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("cannot tell the machine's memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		for prefix, into := range map[string]*int64{"MemTotal:": &memory, "SwapTotal:": &swap} {
			rest, ok := strings.CutPrefix(s.Text(), prefix)
			if !ok {
				continue
			}
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("cannot tell the machine's memory: %w", err)
			}
			*into = kib << 10
		}
	}
	if memory == 0 {
		return 0, 0, fmt.Errorf("cannot tell the machine's memory: no MemTotal in /proc/meminfo")
	}
	return memory, swap, nil
}

func fileSystemSize(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot tell the size of the file system of %s: %w", dir, err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}
