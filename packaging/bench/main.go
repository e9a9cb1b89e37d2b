// Command bench measures the built binary beside what a person would otherwise
// use, in one run on one machine, and holds the ratios against their targets.
// Absolute figures of a shared machine mean little; every target is a ratio of
// two medians taken in turn, or a size.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

// A bench is what every section measures with.
type bench struct {
	binary string
	dir    string // temporary, removed at the end
	quick  bool   // small numbers: does it run, not what it shows
	table  table
}

type section struct {
	name string
	run  func(context.Context, *bench) error
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "million-child" {
		if err := millionChild(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	binary := flag.String("binary", "build/girder-worker", "the binary to measure")
	only := flag.String("only", "", "run the sections whose name matches this expression")
	quick := flag.Bool("quick", false, "small numbers: to see that it runs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	missed, err := run(ctx, *binary, *only, *quick)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	// A miss is a finding, not a failure: these machines are shared.
	if missed > 0 {
		fmt.Printf("\n%d targets missed\n", missed)
	}
}

func run(ctx context.Context, binary, only string, quick bool) (missed int, err error) {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return 0, fmt.Errorf("cannot read -only: %w", err)
	}
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("cannot start a daemon: the benchmark needs root")
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "girder-worker-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	b := &bench{binary: path, dir: dir, quick: quick}
	for _, s := range []section{
		{"submit", submitSection},
		{"latency", latencySection},
		{"command", commandSection},
		{"throughput", throughputSection},
		{"cost", costSection},
		{"celery", celerySection},
		{"python", pythonSection},
		{"pipes", pipeSection},
		{"memory", memorySection},
		{"million", millionSection},
		{"restart", restartSection},
	} {
		if !chosen.MatchString(s.name) {
			continue
		}
		fmt.Printf("\n%s\n", s.name)
		if err := s.run(ctx, b); err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Println()
	b.table.print(os.Stdout)
	return b.table.missed(), nil
}

// n is full, or a number that only shows that the section runs.
func (b *bench) n(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}
