package upstream_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// A decision is a transaction of a cursor and a gap record, too.
func TestReviewADecisionIsNotTakenBackInPart(t *testing.T) {
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed+1, upstream.Config{})
			w.kafka.Single, w.hint = true, new(memory)
			w.kafka.Keep = func(topic string) bool { return topic != upstream.DefaultCursorTopic }
			w.kafka.Create("s.a", 3, false)
			w.kafka.Refuse("s.a", func(r upstream.Record) error {
				if strings.HasSuffix(string(r.Value), "bad") {
					return errors.New("bad")
				}
				return nil
			})
			plainly(w.all, w.parts[0], 10, "x")
			plainly(w.all, w.parts[0], 1, "bad")
			w.board = w.start()
			defer func() { w.board.kill() }()
			stopped(t, w.board, "s.a", 0, upstream.Refused)
			time.Sleep(time.Minute)
			w.kafka.Fail(upstreamtest.Faults{Restart: 1})
			err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{How: upstream.At, Offset: 11})
			w.kafka.Fail(upstreamtest.Faults{})
			t.Logf("decided: %v; hanging %v", err, w.kafka.Hanging())
			w.kafka.Refuse("s.a", nil)
			w.board.kill()
			w.board = w.start()
			w.board.drained(t)
			if list := w.all.faults(t, w.kafka); len(list) > 0 {
				t.Errorf("seed %d: %d faults, %s", seed+1, len(list), list[0])
			}
		})
		if t.Failed() {
			return
		}
	}
}

// The peer does not tell whose transaction is open for a second, as while a partition gets a leader: that does not cost five minutes.
func TestReviewAMomentWithoutALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, upstream.Config{})
		w.kafka.Single = true
		r := &loser{kafka: w.kafka, one: make(chan struct{}, 1), lose: func(string, []upstream.Record) bool { return true }}
		w.wrap = func(to upstream.Remote) upstream.Remote { r.Remote = to; return r }
		plainly(w.all, w.parts[0], 10, "x")
		w.board = w.start()
		w.board.drained(t)
		w.board.kill()
		w.kafka.Hide(upstream.DefaultCursorTopic, errors.New("NOT_LEADER_OR_FOLLOWER"))
		w.board = w.start()
		defer w.board.kill()
		time.Sleep(time.Second)
		t.Log(w.board.link.Status().Reason)
		w.kafka.Hide(upstream.DefaultCursorTopic, nil)
		began := time.Now()
		w.board.drained(t)
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		w.exact()
	})
}
