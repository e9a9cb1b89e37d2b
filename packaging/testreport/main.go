// Command testreport reads the events of go test -json on its standard input
// and tells a person what matters of them: each package as it ends, everything
// that a failed test said, every test that did not run and why, and at the end
// go test's own lines once more, together.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of go test -json, see go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// test names a test of a package; an empty name is the package itself.
type test struct{ pkg, name string }

func main() {
	if err := report(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func report(r io.Reader, w io.Writer) error {
	said := map[test][]string{}
	var failed, skipped []test
	var results []string
	var passed int

	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		// What go itself prints, such as a download or a broken go.mod, is no event.
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			fmt.Fprintln(w, in.Text())
			continue
		}
		t := test{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "output":
			if e.Test == "" && isResult(e.Output) {
				line := strings.TrimSpace(e.Output)
				results = append(results, line)
				fmt.Fprintln(w, line)
				continue
			}
			said[t] = append(said[t], e.Output)
		case "pass":
			if e.Test != "" {
				passed++
			}
			delete(said, t)
		case "fail":
			failed = append(failed, t)
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, t)
			}
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("cannot read the events of go test: %w", err)
	}

	for _, t := range failed {
		if len(said[t]) > 0 {
			fmt.Fprintf(w, "\nFAILED %s %s\n%s", t.pkg, t.name, strings.Join(said[t], ""))
		}
	}
	fmt.Fprintf(w, "\n%d tests passed, %d failed, %d not run\n", passed, count(failed), len(skipped))
	for _, t := range skipped {
		fmt.Fprintf(w, "  not run: %s %s: %s\n", t.pkg, t.name, reason(said[t]))
	}
	fmt.Fprintln(w)
	for _, line := range results {
		fmt.Fprintln(w, line)
	}
	return nil
}

// isResult tells whether a package's line is its verdict.
func isResult(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "FAIL\t") || strings.HasPrefix(line, "?   \t")
}

// count leaves out the packages, which fail with their tests.
func count(tests []test) int {
	n := 0
	for _, t := range tests {
		if t.name != "" {
			n++
		}
	}
	return n
}

// reason finds what a skipped test said among go test's own framing.
func reason(lines []string) string {
	var words []string
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- ") {
			continue
		}
		// "file_test.go:12: the reason"
		if _, text, ok := strings.Cut(l, ": "); ok && strings.Contains(l[:len(l)-len(text)], "_test.go:") {
			l = text
		}
		words = append(words, l)
	}
	if len(words) == 0 {
		return "no reason given"
	}
	return strings.Join(words, " ")
}
