package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
)

func TestDropUnlinksWholeSegmentsBelowTheMark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: 1000}, Mark{})
	var mid Mark
	var want []string
	for i := range 40 {
		text := fmt.Sprintf("%0300d", i)
		put(t, j, text)
		if i == 20 {
			mid = j.Mark()
		} else if i > 20 {
			want = append(want, text)
		}
	}
	if inline, _ := j.Bytes(); inline != 40*300 {
		t.Errorf("%d bytes since the start", inline)
	}
	before := segments(t, dir)
	if err := j.Drop(mid); err != nil {
		t.Fatal(err)
	}
	after := segments(t, dir)
	if len(after) >= len(before) || after[0].base > mid.Index+1 || len(after) > 1 && after[1].base <= mid.Index+1 {
		t.Errorf("dropped to %d: %v left of %v", mid.Index, after, before)
	}
	if err := j.Drop(Mark{mid.ID + 1, 30}); !errors.Is(err, ErrForeign) {
		t.Errorf("Drop of another journal's mark: %v", err)
	}
	shut(t, j)
	expect(t, dir, mid, want...)
}

func TestDropNeverTakesTheTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := run(t, Options{Dir: dir, SegmentBytes: 1000}, Mark{})
	put(t, j, "a", "b", "c")
	if err := j.Drop(j.Mark()); err != nil {
		t.Fatal(err)
	}
	if inline, _ := j.Bytes(); inline != 0 {
		t.Errorf("%d bytes after everything was dropped", inline)
	}
	m := j.Mark()
	put(t, j, "d")
	shut(t, j)
	expect(t, dir, m, "d")
}

func TestBytesAfterADropAreThoseAfterItsMark(t *testing.T) {
	j := run(t, Options{Dir: t.TempDir(), InlineMax: 1000}, Mark{})
	var syncs atomic.Int32
	put(t, j, "small")
	for range 5 {
		if err := stage(j, pointed(1, 0, 300<<10, &syncs)); err != nil {
			t.Fatal(err)
		}
	}
	mid := j.Mark()
	for range 3 { // committed while the checkpoint was made
		if err := stage(j, pointed(1, 0, 300<<10, &syncs)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Drop(mid); err != nil {
		t.Fatal(err)
	}
	if inline, pointed := j.Bytes(); inline != 0 || pointed != 3*300<<10 {
		t.Errorf("%d inline, %d pointed", inline, pointed)
	}
}

func TestTallyStaysSmallAndNearTheTruth(t *testing.T) {
	var y tally
	for i := range 20_000 {
		y.add(uint64(i+1), 0, tallyStep)
		if len(y.samples) > tallyMax {
			t.Fatalf("%d samples", len(y.samples))
		}
	}
	y.drop(15_000)
	_, p := y.bytes()
	if got := p / tallyStep; got < 5_000 || got > 5_000+20_000/tallyMax*4 {
		t.Errorf("%d steps after the mark, want 5000", got)
	}
}
