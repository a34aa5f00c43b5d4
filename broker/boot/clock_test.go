package boot

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/broker/disk"
)

const day = 24 * time.Hour

func TestABoardThatStartsIn1970(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{Source: NTP})
	old := w.add(1)
	w.pass(day, NTP)
	w.stop()
	reached := w.truth
	w.off(30 * day)

	w.boot(time.Unix(5, 0), Reading{})
	first := w.add(1)
	if at := time.UnixMilli(first.stamp); at.Before(reached) || at.After(reached.Add(time.Minute)) {
		t.Errorf("stamped %v, the time had reached %v", at.UTC(), reached)
	}
	w.pass(time.Hour, None)
	second, fresh := w.add(1), w.add(2)
	if at, unsure := w.export(first); at != reached || !unsure {
		t.Errorf("before the time is known: %v, %v; want the floor %v, unsure", at, unsure, reached)
	}
	if at, unsure := w.export(second); at != reached.Add(time.Hour) || !unsure {
		t.Errorf("an hour later: %v, %v", at, unsure)
	}
	writes := w.writes
	w.ntp() // after an hour
	if w.writes != writes+1 {
		t.Errorf("%d writes when the time became known", w.writes-writes)
	}
	third := w.add(1)
	for range 2 {
		for _, k := range []kept{old, first, second, fresh, third} {
			w.exact(k)
		}
		w.pass(day, NTP)
		w.cut()
		w.off(day)
		w.boot(time.Unix(5, 0), Reading{}) // and it is still known in a later life that knows nothing
	}
}

func TestALifeThatIsCutShortBeforeTheTimeWasKnown(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{Source: NTP})
	w.pass(day, NTP)
	w.stop()
	reached := w.truth
	w.off(30 * day)
	w.boot(time.Unix(5, 0), Reading{})
	w.pass(20*time.Minute, None)
	lost := w.add(1)
	w.cut()
	w.off(day)
	began := w.truth
	w.boot(time.Unix(7, 0), Reading{})
	w.pass(time.Minute, None)
	known := w.add(1)
	w.ntp()
	w.exact(known)
	for range 2 {
		if at, unsure := w.export(lost); at != reached.Add(20*time.Minute) || !unsure {
			t.Errorf("%v, unsure %v; want the floor, and how far into its life it came, %v", at, unsure, reached.Add(20*time.Minute))
		}
		if arrived := w.clock.View().x.eras[0].Ceiling; arrived != began.UnixMilli() {
			t.Errorf("it came before %v at the latest, the table says %v", began, time.UnixMilli(arrived).UTC())
		}
		w.pass(time.Hour, NTP)
		w.cut()
		w.boot(w.truth, Reading{Source: NTP})
	}
}

func TestStepsOfAClockThatNobodyVouchesFor(t *testing.T) {
	w := alone(t)
	w.boot(w.truth.Add(-3*day), Reading{}) // above the floor: the best there is
	a := w.add(1)
	if a.stamp != w.truth.Add(-3*day).UnixMilli() {
		t.Errorf("stamped %v", time.UnixMilli(a.stamp).UTC())
	}
	w.pass(2*time.Minute, None)
	w.wall += 10 * 365 * day
	w.look(None)
	b := w.add(1)
	if at := time.UnixMilli(b.stamp).UTC(); at.Year() != 2036 {
		t.Errorf("after a step that somebody must have wanted: %v", at)
	}
	w.pass(2*time.Minute, None)
	w.wall -= 40 * 365 * day
	w.look(None)
	c := w.add(1)
	if at := time.UnixMilli(c.stamp).UTC(); at.Before(build) || at.Year() != 2026 {
		t.Errorf("after a step to before the program was built: %v", at)
	}
	for _, k := range []kept{a, b, c} {
		if at, unsure := w.export(k); !unsure || at.Before(build) || at.After(build.Add(time.Hour)) {
			t.Errorf("unknown: %v, %v", at, unsure)
		}
	}
	if f := w.clock.Figures(); f.Steps != 2 || f.Eras != 3 {
		t.Errorf("%+v", f)
	}
	w.pass(time.Hour, None)
	w.ntp()
	for _, k := range []kept{a, b, c} {
		w.exact(k)
	}
}

// Setting a clock by hand makes the kernel say that nobody disciplines it. What was known stays known.
func TestAStepOfAClockThatIsKnownChangesNoStamp(t *testing.T) {
	for _, by := range []time.Duration{10 * 365 * day, -10 * 365 * day} {
		w := alone(t)
		w.boot(w.truth, Reading{Source: NTP})
		w.pass(time.Hour, NTP)
		w.wall += by
		k := w.add(1)
		w.look(None)
		l := w.add(1)
		w.pass(time.Hour, None)
		for _, k := range []kept{k, l, w.add(1)} {
			if k.stamp != k.truth {
				t.Errorf("step by %v: stamped %v", by, time.UnixMilli(k.stamp).UTC())
			}
			w.exact(k)
		}
		// Files are dated by the system's clock all the same.
		if got := w.clock.View().FileArrived(l.place, l.offset, w.truth.Add(by).UnixMilli()); got != w.truth.UnixMilli() {
			t.Errorf("a file of that time arrived at %v", time.UnixMilli(got).UTC())
		}
		w.ntp()
		w.pass(time.Hour, NTP)
		w.exact(w.add(1))
		w.exact(l)
	}
}

// One wrong answer of an NTP server does not last for ever.
func TestATimeThatWasBelievedWronglyIsCorrectedToo(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{})
	a := w.add(1)
	w.pass(time.Minute, None)
	w.wall = 10 * 365 * day
	w.look(NTP)
	w.pass(time.Hour, NTP)
	b := w.add(1)
	if at := time.UnixMilli(b.stamp).UTC(); at.Year() != 2036 {
		t.Errorf("stamped %v", at)
	}
	w.ntp()
	c := w.add(1)
	for _, k := range []kept{a, b, c} {
		w.exact(k)
		if age := w.age(k); age < 0 || age > 2*time.Hour {
			t.Errorf("%v old", age)
		}
	}
	w.stop()
	w.boot(time.Unix(5, 0), Reading{})
	for _, k := range []kept{a, b, c} {
		w.exact(k)
	}
	if at := w.clock.Now(); at.Year() != 2026 {
		t.Errorf("the floor stays at %v", at.UTC())
	}
}

func TestARealTimeClock(t *testing.T) {
	w := alone(t)
	w.boot(time.Unix(5, 0), w.rtc())
	k := w.add(1)
	w.exact(k)
	if k.stamp != k.truth || w.clock.Source() != RTC || !w.clock.Known() {
		t.Errorf("stamped %v by %v", time.UnixMilli(k.stamp).UTC(), w.clock.Source())
	}
	// The system's clock is in 1970, and files with it.
	if got := w.clock.View().FileArrived(k.place, k.offset, time.Unix(6, 0).UnixMilli()); got != k.truth {
		t.Errorf("a file of that time arrived at %v", time.UnixMilli(got).UTC())
	}
	w.pass(time.Hour, RTC)
	w.ntp()
	w.pass(time.Hour, NTP)
	w.exact(k)
	w.exact(w.add(1))
	w.stop()
	// The battery was changed, and the chip set to what the time was then: before what it has reached.
	w.off(day)
	w.boot(time.Unix(5, 0), Reading{RTC, w.truth.Add(-2 * day)})
	if w.clock.Known() || w.clock.Source() != None {
		t.Error("a time from before the last life was believed")
	}
}

func TestWhatIsOlderThanTheTable(t *testing.T) {
	w := alone(t)
	p := place(1)
	w.ends[p] = Range{p, 3, 10}
	w.boot(w.truth, Reading{Source: NTP})
	v := w.clock.View()
	for _, tt := range []struct{ stamp, want time.Time }{
		{time.Unix(5, 0), time.UnixMilli(earliest)},
		{build, build},
		{year(2050), w.truth},
	} {
		if at, unsure := v.Export(p, 5, tt.stamp.UnixMilli()); at != tt.want.UnixMilli() || !unsure {
			t.Errorf("%v: %v, %v", tt.stamp, time.UnixMilli(at).UTC(), unsure)
		}
	}
	if at := v.FileArrived(p, 5, build.UnixMilli()); at != build.UnixMilli() {
		t.Errorf("a file of %v arrived at %v", build, time.UnixMilli(at).UTC())
	}
	if at := v.FileArrived(p, 5, 5000); at != w.truth.UnixMilli() {
		t.Errorf("a file of 1970 arrived at %v", time.UnixMilli(at).UTC())
	}
	w.exact(w.add(1))
	w.stop()
	w.boot(w.truth, Reading{Source: NTP})
	w.exact(w.add(1))
	if n := w.clock.Figures().Eras; n != 1 {
		t.Errorf("%d eras", n)
	}
	// When nothing of it is left its era goes.
	w.ends[p] = Range{p, 10, 12}
	w.pass(day, NTP)
	if err := w.clock.Save(); err != nil || w.clock.Figures().Eras != 0 {
		t.Errorf("%d eras, %v", w.clock.Figures().Eras, err)
	}
}

func TestClientsThatHaveAClockAreLeftAlone(t *testing.T) {
	w := alone(t)
	w.boot(time.Unix(5, 0), Reading{})
	w.pass(time.Minute, None)
	k := w.add(1)
	export := func(stamp time.Time) (time.Time, bool) {
		at, unsure := w.clock.View().Export(k.place, k.offset, stamp.UnixMilli())
		return time.UnixMilli(at).UTC(), unsure
	}
	if at, unsure := export(time.Unix(9, 0)); at != build || !unsure {
		t.Errorf("1970 of a client leaves as %v, %v", at, unsure)
	}
	w.ntp()
	for _, stamp := range []time.Time{w.truth, w.truth.Add(-30 * time.Second), w.truth.Add(time.Minute)} {
		if at, unsure := export(stamp); at != stamp || unsure {
			t.Errorf("%v of a client leaves as %v, %v", stamp, at, unsure)
		}
	}
	if at, unsure := export(year(2090)); at != w.truth || !unsure {
		t.Errorf("2090 leaves as %v, %v", at, unsure)
	}
	if at, unsure := w.clock.View().Export(k.place, k.offset, math.MaxInt64); at != w.truth.UnixMilli() || !unsure {
		t.Errorf("the end of time leaves as %v, %v", at, unsure)
	}
}

func TestAnIdleBoardWritesNothing(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{Source: NTP})
	first := w.writes
	w.pass(10*day, NTP)
	if w.writes != first || first != 1 {
		t.Errorf("%d writes at the start, %d in ten days", first, w.writes-first)
	}
	for range 100 { // a checkpoint a minute
		w.pass(time.Minute, NTP)
		if err := w.clock.Save(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.writes - first; n != 10 {
		t.Errorf("%d writes in 100 minutes, want 10", n)
	}
	w.cut()
	w.boot(time.Unix(5, 0), Reading{})
	if at := w.clock.Now(); w.truth.Sub(at) > 10*time.Minute {
		t.Errorf("it is %v, the floor %v", w.truth, at.UTC())
	}
	w.cut()
	n := w.writes
	w.boot(w.truth, Reading{Source: NTP})
	if w.writes != n+1 { // the life before is over
		t.Errorf("%d writes at a start", w.writes-n)
	}
	w.cut()
	w.boot(w.truth, Reading{Source: NTP})
	if w.writes != n+1 {
		t.Errorf("%d writes at a start with nothing to say", w.writes-n-1)
	}
}

func TestTheBoardSleeps(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{Source: NTP})
	asleep := time.Duration(0)
	w.clock.cfg.Running = func() time.Duration { return w.up + asleep }
	w.pass(time.Minute, None)
	asleep = 8 * time.Hour
	w.truth = w.truth.Add(asleep)
	w.look(None)
	if got := w.clock.Now().UTC(); got != w.truth || w.clock.Figures().Steps != 0 {
		t.Errorf("after eight hours asleep it is %v, the clock says %v", w.truth, got)
	}
}

// full is a disk that refuses what is written.
type full struct {
	disk.OS
	refuse bool
}

func (f *full) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if f.refuse && flag&os.O_CREATE != 0 {
		return nil, errors.New("no space left")
	}
	return f.OS.OpenFile(name, flag, perm)
}

func TestNothingIsStampedByATimeThatIsNotWrittenDown(t *testing.T) {
	w := alone(t)
	fs := &full{}
	w.fs = fs
	w.boot(time.Unix(5, 0), Reading{})
	w.pass(time.Minute, None)
	a := w.add(1)
	fs.refuse, w.wall = true, 0
	for range 3 {
		if err := w.clock.Observe(Reading{Source: NTP}); err == nil {
			t.Fatal("a disk that refuses was not told of")
		}
		w.truth, w.up = w.truth.Add(10*time.Second), w.up+10*time.Second
	}
	if w.clock.Known() {
		t.Error("known, and not written down")
	}
	b := w.add(1)
	fs.refuse = false
	w.look(NTP)
	w.exact(a)
	w.exact(b)
	w.exact(w.add(1))
	w.cut()
	w.boot(time.Unix(5, 0), Reading{})
	w.exact(a)
	w.exact(b)
}

func TestDamageOfTheTableIsSurvived(t *testing.T) {
	w := alone(t)
	w.boot(time.Unix(5, 0), Reading{})
	k := w.add(1)
	w.pass(time.Minute, None)
	w.ntp()
	w.stop()
	spoil := func(n int) {
		name := filepath.Join(w.dir, FileName(n))
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 0x10
		if err := os.WriteFile(name, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spoil(w.clock0().files.next) // the older
	w.boot(w.truth, Reading{Source: NTP})
	w.exact(k)
	w.stop()
	spoil(0)
	spoil(1)
	w.boot(w.truth, Reading{Source: NTP})
	if _, unsure := w.export(k); !unsure {
		t.Error("what the table knew is gone, and nobody is told")
	}
}

// clock0 reads the files as they are.
func (w *world) clock0() *Clock {
	c := &Clock{files: files{fs: disk.OS{}, dir: w.dir}}
	c.files.open()
	return c
}

func TestManyLivesAreMerged(t *testing.T) {
	w := alone(t)
	w.boot(w.truth, Reading{Source: NTP})
	w.pass(day, NTP)
	w.stop()
	reached := w.truth
	for range erasMax + 50 {
		w.off(time.Hour)
		w.boot(time.Unix(5, 0), Reading{})
		w.add(1)
		w.pass(time.Minute, None)
		w.cut()
	}
	w.boot(time.Unix(5, 0), Reading{})
	w.pass(time.Minute, None)
	w.ntp()
	if n := w.clock.Figures().Eras; n > erasMax+1 {
		t.Errorf("%d eras", n)
	}
	for _, k := range w.log {
		if at, unsure := w.export(k); !unsure || at.Before(reached) || at.UnixMilli() > k.truth {
			t.Fatalf("a record of %v leaves as %v, %v", time.UnixMilli(k.truth).UTC(), at, unsure)
		}
		if w.age(k) > w.truth.Sub(time.UnixMilli(k.truth)) {
			t.Fatalf("a record is %v old, it came %v ago", w.age(k), w.truth.Sub(time.UnixMilli(k.truth)))
		}
	}
}

func TestWhatIsLogged(t *testing.T) {
	w := alone(t)
	var out bytes.Buffer
	w.boot(time.Unix(5, 0), Reading{})
	w.clock.cfg.Logger = slog.New(slog.NewTextHandler(&out, nil))
	w.pass(time.Minute, None)
	if out.Len() > 0 {
		t.Errorf("nothing has happened: %s", out.String())
	}
	w.ntp()
	w.pass(time.Minute, NTP)
	for _, want := range []string{"who vouches for the time has changed", "the time is known now"} {
		if n := strings.Count(out.String(), want); n != 1 {
			t.Errorf("%q is said %d times in\n%s", want, n, out.String())
		}
	}
}
