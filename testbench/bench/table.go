package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table is what the run has found.
type table struct{ lines [][]string }

// add adds a line: the row of the goals, what was measured, the figures, the verdict.
func (t *table) add(row, what, figures, verdict string) {
	t.lines = append(t.lines, []string{row, what, figures, verdict})
}

// print writes the table as Markdown.
func (t *table) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprintln(tw, "| #\t| what\t| measured\t| goal\t|")
	fmt.Fprintln(tw, "|---\t|---\t|---\t|---\t|")
	for _, l := range t.lines {
		fmt.Fprintf(tw, "| %s\t|\n", strings.Join(l, "\t| "))
	}
	return tw.Flush()
}

// goal is one bound a figure is held against.
type goal struct {
	text string
	met  bool
}

// atMost is a goal the figure must not pass.
func atMost(what string, value, limit float64) goal {
	return goal{fmt.Sprintf("%s ≤ %.4g", what, limit), value <= limit}
}

// atLeast is a goal the figure must reach.
func atLeast(what string, value, limit float64) goal {
	return goal{fmt.Sprintf("%s ≥ %.4g", what, limit), value >= limit}
}

// verdict names every goal and whether it is met.
func verdict(goals ...goal) string {
	var said []string
	for _, g := range goals {
		word := "met"
		if !g.met {
			word = "**not met**"
		}
		said = append(said, g.text+": "+word)
	}
	return strings.Join(said, "; ")
}

// figures are the medians of several peers for one measure, in the order the peers were measured in.
type figures struct {
	unit    string
	order   []string
	samples map[string][]float64
}

func newFigures(unit string) *figures { return &figures{unit: unit, samples: map[string][]float64{}} }

// add notes one round of one peer.
func (f *figures) add(peer string, v float64) {
	if !slices.Contains(f.order, peer) {
		f.order = append(f.order, peer)
	}
	f.samples[peer] = append(f.samples[peer], v)
}

// of is the median of a peer's rounds, 0 without any.
func (f *figures) of(peer string) float64 { return median(f.samples[peer]) }

// ratio is the median, over the rounds, of Millrace's figure over the peer's of the same round.
func (f *figures) ratio(peer string) (float64, bool) {
	ours, theirs := f.samples[us], f.samples[peer]
	var r []float64
	for i := range min(len(ours), len(theirs)) {
		if theirs[i] > 0 {
			r = append(r, ours[i]/theirs[i])
		}
	}
	return median(r), len(r) > 0
}

// String is every peer's median, with Millrace's ratio to it.
func (f *figures) String() string {
	var said []string
	for _, p := range f.order {
		s := fmt.Sprintf("%s %.3g", p, f.of(p))
		if r, ok := f.ratio(p); ok && p != us {
			s += fmt.Sprintf(" (×%.2f)", r)
		}
		said = append(said, s)
	}
	return strings.Join(said, ", ") + " " + f.unit
}

// against is the goal that Millrace's ratio to a peer holds a limit, nothing where the peer was not measured.
func (f *figures) against(peer, what string, limit float64, least bool) []goal {
	r, ok := f.ratio(peer)
	switch {
	case !ok:
		return nil
	case least:
		return []goal{atLeast(what+" / "+peer, r, limit)}
	}
	return []goal{atMost(what+" / "+peer, r, limit)}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// quantile is the q-th of the durations, in microseconds. It sorts them.
func quantile(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return float64(d[min(int(q*float64(len(d))), len(d)-1)]) / float64(time.Microsecond)
}
