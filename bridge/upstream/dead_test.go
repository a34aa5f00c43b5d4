package upstream_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// Topics come and go: those that are gone take no room from others, neither while the link runs nor when it reads what
// they have left upstream, and that does not grow for ever.
func TestTopicsThatWereDeletedLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{Partitions: 8}, nil)
		defer func() { w.board.kill() }()
		arrived := func(name string) {
			t.Helper()
			if n := len(w.kafka.Committed(name, 0)); n != 1 {
				t.Fatalf("%d records of %s arrived: %+v", n, name, w.board.link.Status())
			}
		}
		cursors := func() int {
			w.kafka.Compact(upstream.DefaultCursorTopic)
			live := map[string]bool{}
			for i := range w.kafka.Partitions(upstream.DefaultCursorTopic) {
				for _, r := range w.kafka.Committed(upstream.DefaultCursorTopic, i) {
					live[string(r.Key)] = r.Value != nil
					if r.Value == nil {
						delete(live, string(r.Key))
					}
				}
			}
			return len(live)
		}
		for i := range 20 {
			name := fmt.Sprintf("s.t%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			time.Sleep(time.Minute)
			arrived(name)
			w.log.Delete(name)
		}
		if s := w.board.link.Status(); s.Partitions != 4 || s.Left != 0 {
			t.Errorf("%d partitions are carried, %d left out", s.Partitions, s.Left)
		}
		if n := cursors(); n > 4+8+1 { // those that are there, as many of others, and the last one
			t.Errorf("%d cursors are upstream", n)
		}
		// More are deleted while the link is away than it keeps cursors of.
		w.board.kill()
		for i := range 48 {
			name := fmt.Sprintf("s.u%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			if i%4 == 3 {
				w.board = w.start()
				w.board.drained(t)
				w.board.kill()
				for k := i - 3; k <= i; k++ {
					arrived(fmt.Sprintf("s.u%d", k))
					w.log.Delete(fmt.Sprintf("s.u%d", k))
				}
			}
		}
		w.board = w.start()
		for i := range 4 { // each transaction of the link takes some with it
			name := fmt.Sprintf("s.v%d", i)
			plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
			time.Sleep(time.Minute)
			arrived(name)
			w.log.Delete(name)
		}
		if n := cursors(); n > 4+8+1 {
			t.Errorf("%d cursors are upstream", n)
		}
	})
}

// The cursor of a topic outlives it: made anew the topic stops, whether the link has seen that it was away or not. Only where
// many others were deleted since, it begins anew.
func TestATopicMadeAnewAfterItWasSeenToBeGone(t *testing.T) {
	for _, tt := range []struct {
		others  int
		stopped bool
	}{{1, true}, {20, false}} {
		synctest.Test(t, func(t *testing.T) {
			w := begin(t, upstream.Config{Partitions: 8}, nil)
			defer func() { w.board.kill() }()
			plainly(nil, w.parts[3], 10, "x")
			w.board.drained(t)
			w.log.Delete("s.b")
			for i := range tt.others {
				name := fmt.Sprintf("s.t%d", i)
				plainly(nil, w.log.Create(name, 1, false)[0], 1, "x")
				w.board.drained(t)
				w.log.Delete(name)
			}
			plainly(nil, w.log.Create("s.b", 1, false)[0], 5, "anew")
			if tt.stopped {
				stopped(t, w.board, "s.b", 0, upstream.LocalAnew)
				return
			}
			w.board.drained(t)
			if n := len(w.kafka.Committed("s.b", 0)); n != 15 {
				t.Errorf("%d records arrived", n)
			}
		})
	}
}

// A stopped partition whose topic is deleted needs no decision any more.
func TestAStoppedPartitionWhoseTopicIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{}, nil)
		defer func() { w.board.kill() }()
		plainly(nil, w.parts[0], 10, "x")
		w.board.drained(t)
		w.board.kill()
		w.log.Create("s.a", 3, false)
		w.board = w.start()
		stopped(t, w.board, "s.a", 0, upstream.LocalAnew)
		w.log.Delete("s.a")
		if s := w.board.link.Status(); s.Stopped != 0 || len(s.List) != 0 || s.Partitions != 1 {
			t.Errorf("status says %+v", s)
		}
		if err := w.board.link.Resolve(t.Context(), "s.a", 0, upstream.Decision{}); !errors.Is(err, upstream.ErrUnknownPartition) {
			t.Errorf("a decision about it: %v", err)
		}
	})
}
