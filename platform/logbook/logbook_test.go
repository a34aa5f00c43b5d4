package logbook

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// written is a log that a test reads.
type written struct {
	mu sync.Mutex
	bytes.Buffer
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Buffer.Write(p)
}

func (w *written) lines(containing string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.String()) {
		if strings.Contains(line, containing) {
			n++
		}
	}
	return n
}

func (w *written) size() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Len()
}

func begin(s Settings) (*Book, *slog.Logger, *written) {
	w := &written{}
	b := New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}), 64<<10, s)
	return b, slog.New(b.Handler()), w
}

func TestEachComponentHasItsLevel(t *testing.T) {
	b, log, w := begin(Settings{Level: slog.LevelInfo, Components: map[string]slog.Level{"mqtt": slog.LevelDebug, "kafka": slog.LevelError}})
	mqtt, kafka := log.With("component", "mqtt"), log.With("a", 1).With("component", "kafka")
	say := func() {
		for _, l := range []*slog.Logger{log, mqtt.With("x", 1), kafka} {
			l.Debug("quiet")
			l.Warn("loud")
		}
	}
	say()
	if q, l := w.lines("quiet"), w.lines("loud"); q != 1 || l != 2 || w.lines("msg=quiet component=mqtt x=1") != 1 {
		t.Errorf("%d quiet and %d loud lines, want 1 and 2:\n%s", q, l, w)
	}
	b.Configure(Settings{Level: slog.LevelError, Components: map[string]slog.Level{"kafka": slog.LevelDebug}})
	w.Reset()
	say()
	if q, l := w.lines("quiet"), w.lines("loud"); q != 1 || l != 1 || w.lines("component=kafka") != 2 {
		t.Errorf("after a change %d quiet and %d loud lines, want 1 of each of kafka:\n%s", q, l, w)
	}
	// A group's own attribute of that name is no component.
	if log.WithGroup("g").With("component", "kafka").Enabled(t.Context(), slog.LevelDebug) {
		t.Error("an attribute in a group was taken for the component")
	}
}

func TestAFloodIsCountedAndToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log, w := begin(Settings{Level: slog.LevelInfo, Rate: 10})
		mqtt := log.With("component", "mqtt")
		for i := range 1000 {
			mqtt.Warn("a publish was refused", "n", i)
		}
		mqtt.Warn("another")
		log.Warn("a publish was refused") // of no component
		if n := w.lines("was refused"); n != 11 {
			t.Errorf("%d lines passed, want 10 of the flood and the one beside it", n)
		}
		time.Sleep(tellAfter)
		synctest.Wait()
		if w.lines(`msg="log lines were left out" component=log repeated=990 most="mqtt: a publish was refused"`) != 1 {
			t.Errorf("it was not told:\n%s", w)
		}
		if !strings.Contains(strings.Join(b.Troubles(), "\n"), "repeated=990") || !bytes.Contains(b.Recent(), []byte("repeated=990")) {
			t.Error("who asks is not told")
		}
		time.Sleep(10 * tellAfter)
		synctest.Wait()
		if n := w.lines("left out"); n != 1 {
			t.Errorf("told %d times", n)
		}
		mqtt.Warn("a publish was refused")
		if n := w.lines(`msg="a publish was refused"`); n != 12 {
			t.Errorf("%d lines after a quiet time, want one more: 12", n)
		}
		// A stop tells what nobody was told yet.
		for range 100 {
			mqtt.Warn("at the end")
		}
		b.Close()
		if w.lines(`repeated=90 most="mqtt: at the end"`) != 1 {
			t.Errorf("the stop did not tell:\n%s", w)
		}
	})
}

func TestNoDayHasMoreThanItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 64 << 10
		b, log, w := begin(Settings{Level: slog.LevelInfo, Budget: budget})
		defer b.Close()
		worst, infos, at := 0, 0, []int{}
		for hour := range 96 {
			for i := range 400 {
				log.Info("chatter", "hour", hour, "n", i)
			}
			if hour%12 == 0 { // chatter leaves room for what counts
				log.Error("trouble", "hour", hour)
			}
			infos += w.lines("chatter")
			at = append(at, w.size())
			worst = max(worst, w.size()-append(make([]int, 24), at...)[hour])
			time.Sleep(time.Hour)
			synctest.Wait()
		}
		if worst > budget || worst < budget/3 {
			t.Errorf("%d bytes were written in 24 hours, the budget is %d", worst, budget)
		}
		if n := w.lines("msg=trouble"); n != 8 {
			t.Errorf("%d of 8 errors were written", n)
		}
		if w.lines("over_budget=") == 0 || infos == 0 {
			t.Error("nobody was told what the budget kept back")
		}
		if !bytes.Contains(b.Recent(), []byte("hour=95 n=399")) {
			t.Error("what the budget kept back is not in memory")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	b := New(slog.DiscardHandler, 16<<10, Settings{Level: slog.LevelDebug, Rate: 10})
	log := slog.New(b.Handler())
	for i := range 10_000 {
		log.Info(fmt.Sprintf("message %d", i), "long", strings.Repeat("x", i%6000))
		if i%100 == 0 {
			log.Error(fmt.Sprintf("error %d", i))
		}
	}
	recent := b.Recent()
	if len(recent) > 16<<10 || len(recent) < 4<<10 || !bytes.HasPrefix(recent, []byte("time=")) || !bytes.HasSuffix(recent, []byte("\n")) {
		t.Errorf("%d bytes of whole lines, want at most %d: %.40q", len(recent), 16<<10, recent)
	}
	if n := len(b.limits.known); n > knownMax+1 {
		t.Errorf("%d messages are remembered", n)
	}
	if n := len(b.Troubles()); n == 0 || n > troublesMax {
		t.Errorf("%d errors are kept, at most %d", n, troublesMax)
	}
	b.Close()
}

func TestManyWrite(t *testing.T) {
	b, log, w := begin(Settings{Level: slog.LevelDebug, Rate: 1_000_000, Budget: 1 << 30})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			l := log.With("component", fmt.Sprint("c", g))
			for i := range 200 {
				l.Info("line", "i", i)
				b.Configure(Settings{Level: slog.LevelDebug, Rate: 1_000_000, Budget: 1 << 30})
				b.Recent()
			}
		})
	}
	all.Wait()
	b.Close()
	if n := w.lines("msg=line component=c"); n != 1600 {
		t.Errorf("%d lines of 1600", n)
	}
}
