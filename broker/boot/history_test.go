package boot

import (
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever a board goes through: what became known is exact, nothing else claims to be, nothing is below the floor or in the
// future, order is kept in a life, and nothing is thought to be older than it is.
func TestAnyHistory(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			rt.Fatal(err)
		}
		w := newWorld(rt, sub)
		walls := rapid.SampledFrom([]func() time.Time{
			func() time.Time { return time.Unix(5, 0) },
			func() time.Time { return w.truth },
			func() time.Time { return w.truth.Add(-40 * day) },
			func() time.Time { return year(2036) },
		})
		start := func() {
			first := Reading{}
			wall := walls.Draw(rt, "wall")()
			switch rapid.IntRange(0, 4).Draw(rt, "first") {
			case 0:
				wall, first = w.truth, Reading{Source: NTP}
			case 1:
				first = w.rtc()
			}
			w.boot(wall, first)
		}
		start()
		source := None
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "op") {
			case 0, 1, 2:
				w.add(byte(rapid.IntRange(1, 3).Draw(rt, "partition")))
			case 3, 4:
				w.pass(time.Duration(rapid.IntRange(1, 7200).Draw(rt, "seconds"))*time.Second, source)
			case 5:
				if source == None {
					w.wall += time.Duration(rapid.IntRange(-20, 20).Draw(rt, "years")) * 365 * day
				}
			case 6:
				w.ntp()
				source = NTP
			case 7:
				source = None // nobody answers any more
				w.look(source)
			case 8:
				if err := w.clock.Save(); err != nil {
					rt.Fatal(err)
				}
			case 9:
				if rapid.Bool().Draw(rt, "clean") {
					w.stop()
				} else {
					w.cut()
				}
				w.off(time.Duration(rapid.IntRange(0, 60).Draw(rt, "days")) * day)
				source = None
				start()
			}
		}
		w.look(source)
		w.lives[w.life] = w.clock.Known()
		check(w)
	})
}

func check(w *world) {
	v := w.clock.View()
	last := map[[2]any]int64{}
	for _, k := range w.log {
		at, unsure := v.Export(k.place, k.offset, k.stamp)
		of := [2]any{k.life, k.place}
		if at < last[of] {
			w.t.Fatalf("life %d: %v leaves after %v", k.life, time.UnixMilli(at).UTC(), time.UnixMilli(last[of]).UTC())
		}
		last[of] = at
		switch {
		case at < build.UnixMilli():
			w.t.Fatalf("life %d: %v is below the floor", k.life, time.UnixMilli(at).UTC())
		case at > w.truth.UnixMilli():
			w.t.Fatalf("life %d: %v, and it is %v", k.life, time.UnixMilli(at).UTC(), w.truth)
		case w.lives[k.life] && (at != k.truth || unsure):
			w.t.Fatalf("life %d: came %v, stamped %v, leaves as %v, unsure %v", k.life, time.UnixMilli(k.truth).UTC(), time.UnixMilli(k.stamp).UTC(), time.UnixMilli(at).UTC(), unsure)
		case !w.lives[k.life] && (at > k.truth || !unsure):
			w.t.Fatalf("life %d, unknown: came %v, leaves as %v, unsure %v", k.life, time.UnixMilli(k.truth).UTC(), time.UnixMilli(at).UTC(), unsure)
		}
		age := v.Age() - v.Arrived(k.place, k.offset, k.stamp)
		if real := w.truth.UnixMilli() - k.truth; age > real || k.life == w.life && age != real {
			w.t.Fatalf("life %d: %v old, came %v ago", k.life, time.Duration(age)*time.Millisecond, w.truth.Sub(time.UnixMilli(k.truth)))
		}
	}
}
