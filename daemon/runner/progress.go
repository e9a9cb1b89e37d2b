package runner

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

const (
	// maxProgressLine is how long a line of progress may be; longer ones are
	// skipped without being kept.
	maxProgressLine = 16 << 10
	// progressEvery is how often progress is told at most. After manyReports it
	// is every slowProgressEvery: what is told stays on the disk with the job.
	progressEvery     = 500 * time.Millisecond
	slowProgressEvery = 5 * time.Second
	manyReports       = 4096
)

// progressLines reads what a container writes into its progress pipe: lines
// that are JSON objects, see [transforms.ProgressLine]. A field that a line does
// not have keeps its value. Of a burst only the last is told, and the last of
// all always is.
type progressLines struct {
	tell func(attempt.Progress)

	mu      sync.Mutex
	line    []byte
	long    bool // the line was too long already
	skipped int64
	now     attempt.Progress
	news    bool
	told    time.Time
	reports int
	timer   *time.Timer // set while news wait
}

// newProgressLines calls tell from Write, flush or a timer's goroutine, one at
// a time.
func newProgressLines(tell func(attempt.Progress)) *progressLines {
	return &progressLines{tell: tell}
}

// Write takes any part of the text and never fails.
func (p *progressLines) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for rest := text; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte{'\n'})
		rest = after
		if p.long || len(p.line)+len(part) > maxProgressLine {
			p.long = true
			p.line = p.line[:0]
		} else {
			p.line = append(p.line, part...)
		}
		if whole {
			p.endLine()
		}
	}
	p.report(false)
	return len(text), nil
}

// flush ends a last line without its newline and tells what is still to be told.
func (p *progressLines) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLine()
	p.report(true)
}

func (p *progressLines) endLine() {
	line := bytes.TrimSpace(p.line)
	var l *transforms.ProgressLine
	switch {
	case p.long:
		p.skipped++
	case len(line) == 0:
	case json.Unmarshal(line, &l) != nil || l == nil:
		p.skipped++
	default:
		if l.Total != nil {
			p.now.Total = *l.Total
		}
		if l.Current != nil {
			p.now.Current = *l.Current
		}
		if l.Message != "" {
			p.now.Message = clean(l.Message)
		}
		p.news = true
	}
	p.line, p.long = p.line[:0], false
}

// report tells news now, or lets a timer do it.
func (p *progressLines) report(last bool) {
	if !p.news {
		return
	}
	every := progressEvery
	if p.reports >= manyReports {
		every = slowProgressEvery
	}
	if wait := time.Until(p.told.Add(every)); wait > 0 && !last {
		if p.timer == nil {
			p.timer = time.AfterFunc(wait, func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.timer = nil
				p.report(false)
			})
		}
		return
	}
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.news = false
	p.told = time.Now()
	p.reports++
	p.tell(p.now)
}
