package upstream_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
	"millrace/broker/record"
)

// What the simulation compares must bite: each of these defects is found by one of a few seeds.
func TestDefectsAreCaught(t *testing.T) {
	for _, tt := range []struct {
		name, fault string
		change      func(*world)
	}{
		{"cursor committed after the data", "twice", func(w *world) {
			w.wrap = func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, false) }
		}},
		{"cursor committed before the data", "arrived 0 times", func(w *world) {
			w.wrap = func(r upstream.Remote) upstream.Remote { return upstreamtest.Split(r, true) }
		}},
		{"fencing switched off", "twice", func(w *world) { w.kafka.NoFencing = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for tries := range 400 {
				for _, seed := range seeds(1) {
					if list := simulate(t, seed, upstream.Config{}, tt.change); strings.Contains(strings.Join(list, "\n"), tt.fault) {
						t.Logf("try %d, -seed=%d finds it", tries+1, seed)
						return
					}
				}
			}
			t.Error("no seed of 400 has found it")
		})
	}
}

// plainly writes n records of one batch each.
func plainly(h history, p *upstreamtest.Partition, n int, text string) {
	for range n {
		r := record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte(text)}
		r.Value = append([]byte(itoa(p.High())+" "), text...)
		p.Append(record.None, r)
		if h != nil {
			h.note(p, []record.Record{r})
		}
	}
}

func TestACloneIsFencedAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		p := w.parts[0]
		w.board = w.start()
		plainly(w.all, p, 10, "before")
		w.board.drained(t)

		image := w.log.Image()
		clone := start(t, w.kafka, image, w.cfg, nil, nil, nil, nil)
		defer clone.kill()
		clone.until(t, upstream.StateIdle)
		theirs := history{}
		plainly(theirs, image.Partition("s.a", 0), 5, "of the clone")
		clone.drained(t)
		plainly(nil, p, 5, "of the board")
		s := w.board.until(t, upstream.StateFenced)
		if !strings.Contains(s.Reason, "another process with this board's identity") {
			t.Errorf("the reason is %q", s.Reason)
		}
		clone.drained(t) // it takes over again, and goes on
		plainly(theirs, image.Partition("s.a", 0), 5, "of the clone")
		clone.drained(t)
		for offset, r := range theirs["s.a-0"] {
			w.all["s.a-0"][offset] = r
		}
		if list := w.all.faults(t, w.kafka); len(list) > 0 {
			t.Errorf("%d faults, %s", len(list), list[0])
		}

		// Made to go on, the board sees that its records are not those that were delivered.
		plainly(nil, p, 10, "of the board")
		w.board.link.Resume()
		defer w.board.kill()
		stopped(t, w.board, "s.a", 0, upstream.LocalOther)
		if list := w.all.faults(t, w.kafka); len(list) > 0 {
			t.Errorf("%d faults, %s", len(list), list[0])
		}
	})
}

// stopped waits until a partition is stopped.
func stopped(t *testing.T, b *board, topic string, partition int32, v upstream.Verdict) upstream.PartitionStatus {
	t.Helper()
	var s upstream.Status
	for range 600 {
		time.Sleep(time.Second)
		s = b.link.Status()
		for _, p := range s.List {
			if p.Topic == topic && p.Partition == partition && p.Verdict == v {
				return p
			}
		}
	}
	t.Fatalf("%s-%d is not stopped as %q: %s %s, %+v", topic, partition, v, s.State, s.Reason, s.List)
	return upstream.PartitionStatus{}
}

func TestAnOlderDiskStopsItsPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, upstream.Config{})
		a, b := w.parts[0], w.parts[3]
		w.board = w.start()
		plainly(w.all, a, 10, "first")
		w.board.drained(t)
		older := w.log.Image()
		plainly(w.all, a, 10, "second")
		plainly(w.all, b, 10, "second")
		w.board.drained(t)
		w.board.kill()

		w.board = start(t, w.kafka, older, w.cfg, nil, nil, nil, nil)
		s := stopped(t, w.board, "s.a", 0, upstream.LocalShort)
		if s.Next != 20 || !strings.Contains(s.Reason, "ends at offset 10, before 20") {
			t.Errorf("it says %+v", s)
		}
		// Other records at the same offsets are not skipped in silence, either.
		plainly(nil, older.Partition("s.a", 0), 15, "another life")
		w.board.kill()
		w.board = start(t, w.kafka, older, w.cfg, nil, nil, nil, nil)
		stopped(t, w.board, "s.a", 0, upstream.LocalOther)
		plainly(w.all, older.Partition("s.a", 1), 5, "goes on") // the others do
		defer func() { w.board.kill() }()
		time.Sleep(time.Minute)
		if list := w.all.faults(t, w.kafka); len(list) > 0 {
			t.Errorf("%d faults, %s", len(list), list[0])
		}
	})
}

func TestATopicMadeAnewStopsItsPartitions(t *testing.T) {
	for _, tt := range []struct {
		name    string
		anew    func(*world)
		runs    bool // the board does, meanwhile
		verdict upstream.Verdict
	}{
		{"here", func(w *world) { w.log.Create("s.a", 3, false) }, false, upstream.LocalAnew},
		{"here, while it runs", func(w *world) {
			w.log.Create("s.a", 3, false)
			plainly(nil, w.log.Partition("s.a", 0), 1, "anew") // it is told by this
		}, true, upstream.LocalAnew},
		{"upstream", func(w *world) { w.kafka.Create("s.a", 3, false) }, false, upstream.UpstreamAnew},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, upstream.Config{})
				w.board = w.start()
				plainly(w.all, w.parts[0], 10, "first")
				w.board.drained(t)
				if !tt.runs {
					w.board.kill()
				}
				tt.anew(w)
				if !tt.runs {
					w.board = w.start()
				}
				defer func() { w.board.kill() }()
				stopped(t, w.board, "s.a", 0, tt.verdict)
				p := w.log.Partition("s.a", 0)
				plainly(nil, p, 5-int(p.High())%10, "anew")
				time.Sleep(time.Minute)
				if n := len(w.kafka.Committed("s.a", 0)); n != 10 && tt.verdict == upstream.LocalAnew || n != 0 && tt.verdict == upstream.UpstreamAnew {
					t.Errorf("%d records arrived", n)
				}
				// A person decides.
				if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.Earliest}); err != nil {
					t.Fatal(err)
				}
				s := w.board.drained(t)
				if s.Stopped != 0 || len(s.List) != 0 {
					t.Errorf("status is %+v", s)
				}
				if n := len(w.kafka.Committed("s.a", 0)); n != 15 {
					t.Errorf("%d records arrived in the end", n)
				}
			})
		})
	}
}

// Where a partition cannot be used when the board starts, the records of the others go where they always went, and it goes on
// when it is back.
func TestAnOfflinePartitionMovesNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 4, upstream.Config{})
		w.kafka.Create("s.a", 3, false)
		w.parts[2].Offline(true)
		w.board = w.start()
		defer func() { w.board.kill() }()
		for i := range 20 {
			r := record.Record{Timestamp: time.Now().UnixMilli(), Key: []byte(itoa(int64(i))), Value: []byte(itoa(int64(i)) + " x")}
			w.parts[0].Append(record.None, r)
			w.all.note(w.parts[0], []record.Record{r})
		}
		w.board.drained(t)
		w.exact()
		w.parts[2].Offline(false)
		plainly(w.all, w.parts[2], 5, "back")
		w.board.drained(t)
		w.exact()
	})
}
