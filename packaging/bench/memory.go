package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memorySection weighs the idle daemon and what a running job adds, by the
// proportional set size of every process of the binary.
func memorySection(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "memory-files")
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	const jobs = 4
	d, err := newDaemon(ctx, b, "memory", fmt.Sprintf("GIRDER_WORKER_SLOTS=%d", jobs), "GIRDER_WORKER_LIMITS_CPUS=0.25")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	// One job has run: the runners that wait are there, as on a machine in use.
	if err := c.runJob(ctx, trueJob); err != nil {
		return err
	}
	front, err := d.frontPID(ctx)
	if err != nil {
		return err
	}
	// After five seconds without a job the daemon gives back what its start took.
	time.Sleep(6 * time.Second)
	idle, err := settled(d)
	if err != nil {
		return err
	}
	halves := idle[d.cmd.Process.Pid] + idle[front]
	b.table.size(30, "MiB", "idle daemon, monitor and front, PSS", mib(halves))
	b.table.note("idle daemon with the runners kept warm, PSS", fmt.Sprintf("%.1f MiB", mib(sum(idle))), "", 0)

	plain := `{"image":"bench:latest","args":["sleep","600"]}`
	source := filepath.Join(dir, "source")
	if err := randomFile(source, 64<<20); err != nil {
		return err
	}
	for _, kind := range []struct {
		what     string
		limit    float64
		document func(i int) string
	}{
		{"a running job without streams, PSS", 8, func(int) string { return plain }},
		{"a running job with streams, PSS", 16, func(i int) string {
			return fmt.Sprintf(`{"image":"bench:latest","args":["sh","-c","cat {in} >{out}; sleep 600"],"inputs":[{"name":"in","file":%q}],"outputs":[{"name":"out","file":%q}]}`,
				source, filepath.Join(dir, fmt.Sprintf("out-%d", i)))
		}},
	} {
		var ids []string
		for i := range jobs {
			_, answer, err := c.do(ctx, "POST", "/v1/jobs", []byte(kind.document(i)))
			if err != nil {
				return err
			}
			var job struct{ ID string }
			if err := json.Unmarshal(answer, &job); err != nil {
				return err
			}
			ids = append(ids, job.ID)
		}
		for _, id := range ids {
			if err := inState(ctx, c, id, "running"); err != nil {
				return err
			}
		}
		busy, err := settled(d)
		if err != nil {
			return err
		}
		b.table.size(kind.limit, "MiB", kind.what, (mib(sum(busy))-mib(sum(idle)))/jobs)
		for _, id := range ids {
			if _, _, err := c.do(ctx, "POST", "/v1/jobs/"+id+"/cancel", nil); err != nil {
				return err
			}
		}
		for _, id := range ids {
			if err := inState(ctx, c, id, "canceled"); err != nil {
				return err
			}
		}
	}
	return nil
}

// inState waits until a job is in a state.
func inState(ctx context.Context, c *conn, id, state string) error {
	for {
		_, answer, err := c.do(ctx, "GET", "/v1/jobs/"+id, nil)
		if err != nil {
			return err
		}
		var job struct{ State, Error string }
		if err := json.Unmarshal(answer, &job); err != nil {
			return err
		}
		switch job.State {
		case state:
			return nil
		case "succeeded", "failed", "canceled":
			return fmt.Errorf("job %s is %s, not %s: %s", id, job.State, state, job.Error)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// settled reads the processes' sizes until two readings in a row agree: the
// runner that replaces a used one starts in the background.
func settled(d *daemon) (map[int]int64, error) {
	var last map[int]int64
	for range 100 {
		now, err := sizes(d.binary)
		if err != nil {
			return nil, err
		}
		if last != nil && len(now) == len(last) && abs(sum(now)-sum(last)) < sum(now)/100 {
			return now, nil
		}
		last = now
		time.Sleep(300 * time.Millisecond)
	}
	return nil, fmt.Errorf("the daemon's size does not settle")
}

// sizes is the PSS in bytes of every process that runs the binary.
func sizes(binary string) (map[int]int64, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[int]int64{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Runners are a file in memory that has the program's name.
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || exe != binary && exe != "/memfd:"+binary+" (deleted)" {
			continue
		}
		if pss := rollup(pid)["Pss"]; pss > 0 {
			found[pid] = pss
		}
	}
	return found, nil
}

// rollup reads the figures of /proc/PID/smaps_rollup, in bytes.
func rollup(pid int) map[string]int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	figures := map[string]int64{}
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) == 3 && fields[2] == "kB" {
			kb, _ := strconv.ParseInt(fields[1], 10, 64)
			figures[strings.TrimSuffix(fields[0], ":")] = kb << 10
		}
	}
	return figures
}

func sum(sizes map[int]int64) (total int64) {
	for _, s := range sizes {
		total += s
	}
	return total
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func abs(v int64) int64 { return max(v, -v) }
