// Command negative stands in for a lab's own program in the demo's image: it
// reads an 8-bit greyscale picture from one file, writes its negative to
// another, and tells its progress, all through whatever the names stand for:
// files, or the named pipes that girder-worker gives it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	size := flag.Int64("size", 0, "bytes to expect, for the progress")
	progress := flag.String("progress", "", "file that gets a line of JSON for every step")
	steps := flag.Int64("steps", 5, "lines of progress")
	pause := flag.Duration("pause", 0, "time to take for each step")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: negative [flags] INPUT OUTPUT")
		os.Exit(2)
	}
	tell := func(int64) {}
	if *progress != "" && *size > 0 {
		f, err := os.OpenFile(*progress, os.O_WRONLY, 0)
		if err != nil {
			fail(err)
		}
		told := int64(0)
		tell = func(done int64) {
			if step := done * *steps / *size; step > told {
				told = step
				line, _ := json.Marshal(map[string]any{
					"total": *size, "current": done, "message": fmt.Sprintf("step %d of %d", step, *steps),
				})
				if _, err := f.Write(append(line, '\n')); err != nil {
					fail(err)
				}
				time.Sleep(*pause)
			}
		}
	}
	n, err := negative(flag.Arg(0), flag.Arg(1), tell)
	if err != nil {
		fail(err)
	}
	fmt.Printf("%d pixels\n", n)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "negative:", err)
	os.Exit(1)
}

func negative(input, output string, tell func(done int64)) (int64, error) {
	in, err := os.Open(input)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(out, 1<<18)
	buf := make([]byte, 1<<18)
	var done int64
	for {
		n, err := in.Read(buf)
		for i, pixel := range buf[:n] {
			buf[i] = ^pixel
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return done, err
		}
		done += int64(n)
		tell(done)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return done, err
		}
	}
	return done, errors.Join(w.Flush(), out.Close())
}
