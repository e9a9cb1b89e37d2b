// Command job is what the crash test's containers run. It takes an exclusive
// lock beside its record, writes down that it started and, after a while, that
// it ended, and exits with the code that it was given.
//
//	job RECORD MILLISECONDS CODE [IN OUT]
//
// With IN it copies that file to OUT before the end.
//
// A second job that finds the lock taken writes "overlap": then one job ran
// twice at the same time.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 4 && len(os.Args) != 6 {
		fail(fmt.Errorf("usage: job RECORD MILLISECONDS CODE [IN OUT]"))
	}
	record := os.Args[1]
	pause, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fail(err)
	}
	code, err := strconv.Atoi(os.Args[3])
	if err != nil {
		fail(err)
	}
	f, err := os.OpenFile(record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		fail(err)
	}
	write := func(word string) {
		if _, err := f.WriteString(word + "\n"); err != nil {
			fail(err)
		}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		write("overlap")
		os.Exit(99)
	}
	write("start")
	fmt.Println("first line")
	time.Sleep(time.Duration(pause) * time.Millisecond)
	if len(os.Args) == 6 {
		data, err := os.ReadFile(os.Args[4])
		if err == nil {
			err = os.WriteFile(os.Args[5], data, 0o644)
		}
		if err != nil {
			fail(err)
		}
	}
	fmt.Println("last line")
	write("end")
	os.Exit(code)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "job:", err)
	os.Exit(98)
}
