package runner

import (
	"bytes"
	"io"
	"strconv"
	"strings"

	"girderworker/daemon/attempt"
)

// slicerProgress takes slicer_cli_web's progress out of a standard output and
// passes everything else on (its girder_worker_plugin/cli_progress.py). Progress
// is a few flat elements:
//
//	<filter-start><filter-name>N</filter-name><filter-comment>C</filter-comment></filter-start>
//	<filter-progress>0.25</filter-progress>
//	<filter-end>...</filter-end>
//
// What looks like one and is not, or does not end within maxProgressLine, is
// output as any other.
type slicerProgress struct {
	out   io.Writer
	lines *progressLines // coalesces, and tells

	held          []byte // may be the beginning of an element
	name, comment string
	clean         bool // the last that was seen was an element: white space behind it goes, too
}

const slicerOpen = "<filter-"

func newSlicerProgress(out io.Writer, tell func(attempt.Progress)) *slicerProgress {
	return &slicerProgress{out: out, lines: newProgressLines(tell), name: "Unknown"}
}

func (s *slicerProgress) Write(p []byte) (int, error) {
	s.held = append(s.held, p...)
	return len(p), s.take(false)
}

// flush passes on what is still held.
func (s *slicerProgress) flush() error {
	err := s.take(true)
	s.lines.flush()
	return err
}

// take passes on, or takes as progress, all that can be told apart.
func (s *slicerProgress) take(last bool) error {
	for len(s.held) > 0 {
		if s.clean {
			s.held = bytes.TrimLeft(s.held, " \t\r\n")
			if len(s.held) == 0 {
				return nil
			}
			s.clean = false
		}
		at := bytes.Index(s.held, []byte(slicerOpen))
		if at < 0 { // its beginning may still be at the end
			at = len(s.held)
			for n := min(len(slicerOpen)-1, len(s.held)); n > 0 && !last; n-- {
				if bytes.HasSuffix(s.held, []byte(slicerOpen[:n])) {
					at -= n
					break
				}
			}
		}
		if at > 0 {
			if err := s.pass(at); err != nil {
				return err
			}
			continue
		}
		n, whole := s.element()
		switch {
		case whole:
			s.held = s.held[n:]
			s.clean = true
		case last || len(s.held) > maxProgressLine:
			if err := s.pass(len(slicerOpen)); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	s.held = nil
	return nil
}

func (s *slicerProgress) pass(n int) error {
	_, err := s.out.Write(s.held[:n])
	s.held = s.held[n:]
	return err
}

// element reads the element that held begins with, and returns its length.
func (s *slicerProgress) element() (n int, whole bool) {
	open := bytes.IndexByte(s.held, '>')
	if open < 0 {
		return 0, false
	}
	tag := string(s.held[1:open])
	end := "</" + tag + ">"
	at := bytes.Index(s.held, []byte(end))
	if at < 0 {
		return 0, false
	}
	text := string(s.held[open+1 : at])
	switch tag {
	case "filter-start", "filter-end":
		for _, inner := range []struct {
			tag string
			to  *string
		}{{"filter-name", &s.name}, {"filter-comment", &s.comment}} {
			if _, rest, ok := strings.Cut(text, "<"+inner.tag+">"); ok {
				if value, _, ok := strings.Cut(rest, "</"+inner.tag+">"); ok {
					*inner.to = strings.TrimSpace(value)
				}
			}
		}
	case "filter-name":
		s.name = strings.TrimSpace(text)
	case "filter-comment":
		s.comment = strings.TrimSpace(text)
	case "filter-progress":
		if value, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil && finite(value) {
			message := s.name
			if s.comment != "" {
				message += ": " + s.comment
			}
			s.lines.set(attempt.Progress{Total: 1, Current: value, Message: clean(message)})
		} else {
			s.lines.skip()
		}
	case "filter-time", "filter-stage-progress":
	default:
		return 0, false
	}
	return at + len(end), true
}

// set is progress that came in another form than a line.
func (p *progressLines) set(now attempt.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.news = now, true
	p.report(false)
}

func (p *progressLines) skip() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skipped++
}
