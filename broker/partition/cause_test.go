package partition

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/segment"
)

// The list tells of each offset why it went, however the start moved, was cut back, and was replayed from somewhere; of
// what it had to forget it says that it does not know.
func TestCausesAreOfEachOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type move struct {
			to  int64
			why segment.Cause
		}
		var list causes
		var want []segment.Cause // by offset, up to the start
		var moves []move         // since the last cut
		var before causes        // what the list was then
		var from int64
		full := false // something may be forgotten
		for range rapid.IntRange(0, 40).Draw(t, "moves") {
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				at := rapid.IntRange(0, len(want)).Draw(t, "at")
				want, list = want[:at], list.cut(int64(at))
				before, from, moves = list, int64(at), nil
				continue
			}
			m := move{int64(len(want) + rapid.IntRange(1, 5).Draw(t, "n")), segment.Cause(rapid.IntRange(0, int(segment.Damage)).Draw(t, "why"))}
			moves = append(moves, m)
			list = list.moved(int64(len(want)), m.why)
			full = full || len(list) == maxCauses
			for int64(len(want)) < m.to {
				want = append(want, m.why)
			}
		}
		check := func(list causes) {
			if len(list) > maxCauses {
				t.Fatalf("%d entries: %v", len(list), list)
			}
			forgot := 0
			next := int64(0)
			for _, g := range list.between(0, int64(len(want))) {
				if g.First != next || g.Last < g.First {
					t.Fatalf("%+v after %d of %v", g, next, list)
				}
				for next = g.First; next <= g.Last; next++ {
					if g.Cause == segment.Unknown && (forgot == int(next)) {
						forgot++
					} else if g.Cause != want[next] {
						t.Fatalf("offset %d went for %s, want %s: %v", next, g.Cause, want[next], list)
					}
				}
			}
			if next != int64(len(want)) {
				t.Fatalf("it ends at %d of %d", next, len(want))
			}
			if forgot > 0 && !full {
				t.Fatalf("%d offsets are forgotten: %v", forgot, list)
			}
		}
		check(list)
		// A checkpoint wrote the list down, and the journal is replayed from before that.
		at, again := from, list
		for i, m := range moves {
			if i == 0 {
				again = again.cut(at)
			}
			again, at = again.moved(at, m.why), m.to
		}
		check(again)
		if !full && !slices.Equal(again, list) {
			t.Fatalf("replayed it is %v, was %v, began as %v", again, list, before)
		}
		first := int64(rapid.IntRange(0, len(want)).Draw(t, "first"))
		got := list.between(first, int64(len(want)))
		if (len(got) == 0) != (first == int64(len(want))) || len(got) > 0 && got[0].First != first {
			t.Fatalf("from %d: %v", first, got)
		}
	})
}
