package upstream_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// A transaction of a gap and a cursor loses its end in the cursor partition alone: the gap record is committed, and proof.
func TestReviewAGapIsToldOnce(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed+1, upstream.Config{})
			w.kafka.Single, w.hint = true, new(memory)
			w.kafka.Keep = func(topic string) bool { return topic != upstream.DefaultCursorTopic }
			plainly(w.all, w.parts[0], 10, "x")
			w.board = w.start()
			defer func() { w.board.kill() }()
			w.board.drained(t)
			w.board.client.Cut(true)
			plainly(w.all, w.parts[0], 10, "y")
			w.board.until(t, upstream.StateConnecting)
			w.parts[0].Retain(0)
			w.kafka.Fail(upstreamtest.Faults{Restart: 1})
			w.board.client.Cut(false)
			for range 600 {
				if time.Sleep(100 * time.Millisecond); w.kafka.Lost() > 0 {
					break
				}
			}
			w.kafka.Fail(upstreamtest.Faults{})
			lost := w.kafka.Lost()
			t.Logf("lost %d, %v, %d gaps; status %+v", lost, w.kafka.Hanging(), len(gaps(t, w.kafka)["s.a-0"]), w.board.link.Status().Records)
			w.board.kill()
			w.board = w.start()
			w.board.drained(t)
			if list := w.all.faults(t, w.kafka); len(list) > 0 {
				t.Errorf("seed %d, %d ends lost: %d faults, %s", seed+1, lost, len(list), list[0])
			}
		})
		if t.Failed() {
			return
		}
	}
}

// A person ends by hand what hangs, while the link waits for it: with one lane it does not know whose it is, and believes its hint.
func TestReviewTakenBackByHandWhileItWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		then upstream.Order
		hide bool
	}{{"one lane", upstream.OldestFirst, false}, {"both, and the peer does not tell", upstream.LiveFirst, true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, upstream.Config{Order: upstream.LiveFirst, TransactionBytes: 2000, LiveBehind: time.Millisecond})
				w.kafka.Single, w.hint = true, new(memory)
				plainly(w.all, w.parts[0], 500, "x")
				r := &loser{kafka: w.kafka, one: make(chan struct{}, 1), lose: func(lane string, recs []upstream.Record) bool {
					if lane != "backfill" {
						return false
					}
					for _, r := range recs {
						if strings.HasPrefix(string(r.Value), "499 ") {
							return true
						}
					}
					return false
				}}
				w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
				w.board = w.start()
				w.board.drained(t)
				if !r.lost || len(w.kafka.Hanging()) == 0 {
					t.Fatal("nothing was lost")
				}
				w.board.kill()
				w.cfg.Order = tt.then
				if tt.hide {
					w.kafka.Hide(upstream.DefaultCursorTopic, fmt.Errorf("not now"))
				}
				w.board = w.start()
				defer w.board.kill()
				time.Sleep(time.Minute)
				t.Log(w.board.link.Status().State, w.board.link.Status().Reason)
				s, err := w.kafka.Client().Open(t.Context(), "person")
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range w.kafka.Hanging() {
					var producer int64
					var epoch int16
					name, rest, _ := strings.Cut(h, ":")
					if _, err := fmt.Sscanf(rest, " producer %d epoch %d", &producer, &epoch); err != nil {
						t.Fatal(err)
					}
					for p := range w.kafka.Partitions(name) {
						at := []upstream.Spot{{Topic: name, Partition: int32(p)}}
						if err := s.Ends(t.Context(), at); err != nil || at[0].Stable >= at[0].End {
							continue
						}
						if err := s.Mark(t.Context(), at, upstream.Marker{Producer: producer, Epoch: epoch}); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.kafka.Hide(upstream.DefaultCursorTopic, nil)
				w.board.drained(t)
				if list := w.all.faults(t, w.kafka); len(list) > 0 {
					t.Errorf("%d faults, %s", len(list), list[0])
				}
			})
		})
	}
}
