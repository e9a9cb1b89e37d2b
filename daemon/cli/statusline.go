package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"girderworker/daemon/apitype"
)

// A statusLine is the last line on a terminal, redrawn below the output. Where
// nobody watches it is nothing, and output passes untouched.
type statusLine struct {
	w  io.Writer // stderr
	on bool

	mu      sync.Mutex
	text    string // what is drawn, empty for nothing
	midline bool   // output has not ended its line: there is no room to draw
}

// show draws the state and the progress of a job.
func (l *statusLine) show(s *apitype.JobStatus) {
	if !l.on {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.erase()
	l.text = describe(s)
	l.draw()
}

// describe is empty while there is nothing to tell that the output does not.
func describe(s *apitype.JobStatus) string {
	state := s.State
	if s.Stage != "" {
		state = s.Stage
	}
	p := s.Progress
	switch {
	case p != nil && p.Total > 0:
		const width = 20
		part := min(max(p.Current/p.Total, 0), 1)
		full := int(part * width)
		return fmt.Sprintf("%s [%s%s] %3.0f %%  %s", state, strings.Repeat("#", full), strings.Repeat(".", width-full),
			100*part, printable(p.Message))
	case p != nil && p.Message != "":
		return state + ": " + printable(p.Message)
	case state == "running" || state == "succeeded":
		return ""
	case s.Reason == s.State:
		return state
	case s.Reason != "":
		return state + ": " + printable(s.Reason)
	}
	return state + " …"
}

// output writes a job's own bytes above the status line.
func (l *statusLine) output(w io.Writer, b []byte) error {
	if !l.on {
		_, err := w.Write(b)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.erase()
	_, err := w.Write(b)
	if len(b) > 0 {
		l.midline = b[len(b)-1] != '\n'
	}
	l.draw()
	return err
}

// say writes a line of our own.
func (l *statusLine) say(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.erase()
	if l.midline {
		fmt.Fprintln(l.w)
		l.midline = false
	}
	fmt.Fprintln(l.w, text)
	l.draw()
}

func (l *statusLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.erase()
	l.text = ""
}

func (l *statusLine) draw() {
	if !l.on || l.text == "" || l.midline {
		return
	}
	text := l.text
	if limit := terminalWidth(l.w) - 1; utf8.RuneCountInString(text) > limit {
		text = string([]rune(text)[:max(limit-1, 0)]) + "…"
	}
	fmt.Fprint(l.w, text)
}

func (l *statusLine) erase() {
	if l.on && l.text != "" && !l.midline {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}
