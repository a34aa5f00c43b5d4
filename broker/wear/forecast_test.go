package wear

import (
	"math"
	"testing"
	"time"
)

func TestATrendLooksBackOverADay(t *testing.T) {
	var tr Trend
	if _, ok := tr.PerDay(); ok {
		t.Error("a trend of nothing")
	}
	value, now := int64(0), time.Duration(0)
	live := func(d time.Duration, perHour int64) {
		for end := now + d; now < end; {
			now += tick
			value += perHour * int64(tick) / int64(time.Hour)
			tr.Add(now, value)
		}
	}
	live(30*time.Minute, 36000)
	if _, ok := tr.PerDay(); ok {
		t.Error("half an hour is told of")
	}
	live(31*time.Minute, 36000)
	for _, step := range []struct {
		d         time.Duration
		perHour   int64
		low, high float64
	}{
		{0, 0, 860_000, 868_000},
		{10 * time.Hour, 36000, 860_000, 868_000},
		{23 * time.Hour, 0, 30_000, 110_000},        // an hour or two of the load are within the day
		{3 * time.Hour, 0, 0, 0},                    // none is
		{26 * time.Hour, -7200, -172_800, -172_000}, // it falls
	} {
		live(step.d, step.perHour)
		if n, ok := tr.PerDay(); !ok || n < step.low || n > step.high {
			t.Errorf("%v of %d an hour: %.0f a day, %v; want %.0f to %.0f", step.d, step.perHour, n, ok, step.low, step.high)
		}
	}
}

func TestDaysUntilNothingIsLeft(t *testing.T) {
	for _, tt := range []struct{ left, perDay, want float64 }{
		{100, 10, 10}, {100, 0, math.Inf(1)}, {100, -5, math.Inf(1)}, {0, 10, 0}, {-1, 0, 0},
	} {
		if got := DaysUntil(tt.left, tt.perDay); got != tt.want {
			t.Errorf("%v at %v a day: %v, want %v", tt.left, tt.perDay, got, tt.want)
		}
	}
}

func TestALedgerCountsOverStarts(t *testing.T) {
	l := OpenLedger(nil, "mmcblk0 eMMC DG4008")
	l.Add("boot 1", 100, 0) // by whoever, before this board began
	l.Add("boot 1", 150, 0)
	l = OpenLedger(l.Text(), l.Device)
	l.Add("boot 1", 170, 0) // the program was started again
	l = OpenLedger(l.Text(), l.Device)
	l.Add("boot 2", 30, 0) // the system was
	l.Add("boot 2", 20, 0) // the device was taken out and put in again
	if l.Written != 170+30+20 {
		t.Errorf("written %d, want 220", l.Written)
	}
	for name, text := range map[string]string{
		"of another device": `{"device":"mmcblk1 SD","written":5}`, "damaged": `{"device":"mmcblk0 eM`, "impossible": `{"device":"mmcblk0 eMMC DG4008","written":-5}`,
	} {
		if l := OpenLedger([]byte(text), "mmcblk0 eMMC DG4008"); *l != (Ledger{Device: "mmcblk0 eMMC DG4008"}) {
			t.Errorf("a file %s: %+v", name, l)
		}
	}
}

func TestHowMuchCanStillBeWritten(t *testing.T) {
	type at struct {
		written int64
		step    int
	}
	for _, tt := range []struct {
		name      string
		endurance int64
		life      []at
		want      float64 // -1: nothing tells
	}{
		{"nothing is known", 0, []at{{100, 0}}, -1},
		{"a step, and no endurance", 0, []at{{100, 3}}, -1},
		{"one change, and no endurance", 0, []at{{100, 3}, {200, 4}}, -1},
		{"the maker's word", 1000, []at{{100, 0}, {300, 0}}, 700},
		{"more than the maker's word", 1000, []at{{3000, 0}}, 0},
		{"the maker's word and the device's", 1000, []at{{100, 3}}, 700},
		{"past its life, by the device's word", 1000, []at{{100, 11}}, 0},
		{"two changes say more than the maker", 1000, []at{{100, 3}, {200, 4}, {600, 5}, {700, 5}}, 6*400 - 100},
		{"a step was missed", 0, []at{{100, 3}, {200, 4}, {1000, 6}}, 5 * 400},
		{"the last step is over", 0, []at{{0, 9}, {100, 10}, {200, 11}}, 0},
		{"a step that goes back is none", 1000, []at{{100, 3}, {200, 2}}, 700},
	} {
		l := OpenLedger(nil, "d")
		for _, a := range tt.life {
			l.Add("boot", a.written, a.step)
			l = OpenLedger(l.Text(), "d")
		}
		left, ok := l.Left(tt.endurance)
		if !ok {
			left = -1
		}
		if left != tt.want {
			t.Errorf("%s: %v left, want %v: %+v", tt.name, left, tt.want, l)
		}
	}
}
