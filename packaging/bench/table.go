package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// A row is one comparison.
type row struct {
	what          string
	ours, against string
	ratio         float64
	target        string
	met           bool
	judged        bool
}

type table struct{ rows []row }

// atLeast adds a comparison whose ratio should not be below target.
func (t *table) atLeast(target float64, what, ours, against string, ratio float64) {
	t.add(row{what: what, ours: ours, against: against, ratio: ratio,
		target: fmt.Sprintf(">= %.2f", target), met: ratio >= target, judged: true})
}

// atMost adds a comparison whose ratio should not be above target.
func (t *table) atMost(target float64, what, ours, against string, ratio float64) {
	t.add(row{what: what, ours: ours, against: against, ratio: ratio,
		target: fmt.Sprintf("<= %.2f", target), met: ratio <= target, judged: true})
}

// size adds a figure that should not be above a limit in the same unit.
func (t *table) size(limit float64, unit, what string, figure float64) {
	t.add(row{what: what, ours: fmt.Sprintf("%.3g %s", figure, unit),
		target: fmt.Sprintf("<= %g %s", limit, unit), met: figure <= limit, judged: true})
}

// note adds a figure without a target.
func (t *table) note(what, ours, against string, ratio float64) {
	t.add(row{what: what, ours: ours, against: against, ratio: ratio})
}

func (t *table) add(r row) {
	fmt.Printf("  %s: %s", r.what, r.ours)
	if r.against != "" {
		fmt.Printf(" against %s, ratio %.2f", r.against, r.ratio)
	}
	fmt.Println()
	t.rows = append(t.rows, r)
}

func (t *table) missed() (n int) {
	for _, r := range t.rows {
		if r.judged && !r.met {
			n++
		}
	}
	return n
}

func (t *table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "WHAT\tFIGURE\tAGAINST\tRATIO\tTARGET\tMET")
	for _, r := range t.rows {
		ratio, met := "", ""
		if r.against != "" {
			ratio = fmt.Sprintf("%.2f", r.ratio)
		}
		if r.judged {
			met = map[bool]string{true: "yes", false: "NO"}[r.met]
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", r.what, r.ours, r.against, ratio, r.target, met)
	}
	tw.Flush()
}

func median[T time.Duration | float64](v []T) T {
	s := slices.Clone(v)
	slices.Sort(s)
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1e3) }

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }
