package upstream_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// follows are settings of a topic that the board has, and what they are to be upstream.
func (w *world) follows(want map[string]string) {
	w.t.Helper()
	w.board.link.Changed()
	time.Sleep(time.Second)
	w.board.drained(w.t)
	if got := w.kafka.Settings("s.a"); !maps.Equal(got, want) {
		w.t.Errorf("upstream it has %v, want %v", got, want)
	}
}

// on is a topic's settings.
func on(list ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(list); i += 2 {
		m[list[i]] = list[i+1]
	}
	return m
}

// Settings of a topic that the link has made follow the board's, over its lives; what somebody has changed there stays; and the
// peer is asked only when there is a difference.
func TestSettingsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := newWorld(t, 1, upstream.Config{FollowSettings: true, ExcludeSettings: []string{"max.*"}})
		w.hint = m
		w.log.Set("s.a", on("cleanup.policy", "compact", "max.message.bytes", "7"))
		w.board = w.start()
		defer func() { w.board.kill() }()
		w.board.drained(t)
		w.follows(on("cleanup.policy", "compact"))
		time.Sleep(24 * time.Hour)
		if n := w.kafka.Asked(); n > 0 {
			t.Errorf("asked %d times for nothing", n)
		}
		w.log.Set("s.a", on("cleanup.policy", "delete", "compression.type", "zstd"))
		w.follows(on("cleanup.policy", "delete", "compression.type", "zstd"))
		w.log.Set("s.a", on("compression.type", "zstd"))
		w.follows(on("compression.type", "zstd"))
		if n := w.kafka.Asked(); n != 2 {
			t.Errorf("asked %d times for two changes", n)
		}

		// A change while the link is away, and the board has another life.
		w.end()
		w.log.Set("s.a", on("compression.type", "lz4", "delete.retention.ms", "5"))
		w.board = w.start()
		w.board.drained(t)
		w.follows(on("compression.type", "lz4", "delete.retention.ms", "5"))

		// Somebody else's, and what is his own.
		w.kafka.Set("s.a", "compression.type", "snappy")
		w.kafka.Set("s.a", "retention.ms", "1")
		w.log.Set("s.a", on("compression.type", "gzip", "delete.retention.ms", "6"))
		w.follows(on("compression.type", "snappy", "delete.retention.ms", "6", "retention.ms", "1"))
		if s := w.board.link.Status(); len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "compression.type of s.a was changed there by somebody else") || s.State != upstream.StateIdle {
			t.Errorf("%+v", s)
		}
		asked := w.kafka.Asked()
		time.Sleep(24 * time.Hour)
		if n := w.kafka.Asked() - asked; n > 0 {
			t.Errorf("an idle link asked %d times", n)
		}
		// They agree in the end.
		w.kafka.Set("s.a", "compression.type", "gzip")
		w.follows(on("compression.type", "gzip", "delete.retention.ms", "6", "retention.ms", "1"))
		if s := w.board.link.Status(); len(s.Notes) > 0 {
			t.Errorf("%+v", s.Notes)
		}
	})
}

// A topic that the link has not made, or of which it does not know that it has, is left alone, and so is one made anew by somebody else.
func TestTopicsOfOthersKeepTheirSettings(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    upstream.Config
		change func(w *world, m *memory)
		again  func(w *world, m *memory) // between two lives, nil for one life
	}{
		{"made by somebody else", upstream.Config{FollowSettings: true}, func(w *world, _ *memory) { w.kafka.Create("s.a", 3, false) }, nil},
		{"switched off", upstream.Config{}, func(w *world, _ *memory) {}, nil},
		{"not remembered", upstream.Config{FollowSettings: true}, func(w *world, _ *memory) {}, func(_ *world, m *memory) { m.p = nil }},
		{"made anew", upstream.Config{FollowSettings: true}, func(w *world, _ *memory) {}, func(w *world, _ *memory) { w.kafka.Create("s.a", 3, false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				w := newWorld(t, 1, tt.cfg)
				w.hint = m
				tt.change(w, m)
				w.board = w.start()
				defer func() { w.board.kill() }()
				w.board.drained(t)
				if tt.again != nil {
					w.end()
					tt.again(w, m)
					w.board = w.start()
					w.board.drained(t)
				}
				w.log.Set("s.a", on("compression.type", "zstd"))
				w.follows(nil)
				if n := w.kafka.Asked(); n > 0 {
					t.Errorf("asked %d times", n)
				}
			})
		})
	}
}

// A peer that refuses is told of, once, asked again after an hour at the earliest, and gets its records.
func TestSettingsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, upstream.Config{FollowSettings: true}, nil)
		defer w.board.kill()
		w.board.drained(t)
		w.kafka.Fix("s.a", errors.New("not authorized"))
		w.log.Set("s.a", on("compression.type", "zstd"))
		w.follows(nil)
		for range 60 * 90 {
			plainly(w.all, w.parts[0], 1, "x")
			time.Sleep(time.Second)
		}
		s := w.board.drained(t)
		w.exact()
		if n := w.kafka.Asked(); n != 2 || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "compression.type of s.a: not authorized") || s.Sent.Connects != 1 {
			t.Errorf("asked %d times: %+v", n, s)
		}
		w.kafka.Fix("s.a", nil)
		time.Sleep(time.Hour)
		plainly(w.all, w.parts[0], 1, "x")
		time.Sleep(time.Second)
		if s = w.board.drained(t); len(s.Notes) > 0 || w.kafka.Settings("s.a")["compression.type"] != "zstd" {
			t.Errorf("%v, %v", s.Notes, w.kafka.Settings("s.a"))
		}
	})
}

// Topics that clients make one by one cost one writing of the hint a minute, and the last of them is remembered, too: by a link
// that then has nothing to do, and by one that ends.
func TestTopicsMadeOneByOneWearNoFlash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		w := newWorld(t, 1, upstream.Config{FollowSettings: true})
		w.hint = m
		w.board = w.start()
		defer func() { w.board.kill() }()
		w.board.drained(t)
		const topics = 500
		for i := range topics {
			plainly(w.all, w.log.Create(fmt.Sprint("s.made", i), 1, false)[0], 1, "x")
			time.Sleep(time.Second)
		}
		w.board.drained(t)
		synctest.Wait()
		synctest.Wait()
		if m.times() > 2+topics/60 {
			t.Errorf("written down %d times for %d topics", m.times(), topics)
		}
		last := fmt.Sprint("s.made", topics-1)
		time.Sleep(time.Minute) // and it is idle
		synctest.Wait()
		kept := slices.Clone(m.p)
		w.board.kill()
		m.p = kept // what it would have written when it ended is lost
		follows := func(topic, codec string) {
			t.Helper()
			w.log.Set(topic, on("compression.type", codec))
			w.board.link.Changed()
			time.Sleep(time.Second)
			w.board.drained(t)
			if got := w.kafka.Settings(topic); got["compression.type"] != codec {
				t.Errorf("upstream %s has %v, want %s", topic, got, codec)
			}
		}
		w.board = w.start()
		w.board.drained(t)
		follows(last, "zstd")
		for _, name := range []string{"s.one", "s.two"} {
			plainly(w.all, w.log.Create(name, 1, false)[0], 1, "x")
			time.Sleep(time.Second)
			w.board.drained(t)
		}
		w.end() // at once
		w.board = w.start()
		w.board.drained(t)
		follows("s.two", "lz4")
	})
}
