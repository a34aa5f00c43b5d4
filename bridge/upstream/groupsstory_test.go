package upstream_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/upstream"
)

// beginFollowing begins a world with a group, in which nothing goes wrong by itself.
func beginFollowing(t *testing.T, cfg upstream.Config) *followers {
	t.Helper()
	w := newFollowers(t, 5, cfg)
	w.board = w.start()
	w.board.until(t, upstream.StateIdle) // so that what is written at once goes in one transaction
	return w
}

// synced waits for the groups.
func (w *followers) synced() upstream.Status {
	w.t.Helper()
	w.board.drained(w.t)
	time.Sleep(2 * groupsEvery)
	return w.board.link.Status()
}

func TestAnIdleLinkAsksNothingOfGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.read("g1", p, 4)
		w.synced()
		asked := w.board.client.GroupRequests()
		if exact, _, _ := w.judge(); exact != 1 || asked != 2 {
			t.Fatalf("%d are exact, by %d requests", exact, asked)
		}
		time.Sleep(20 * time.Hour)
		if n := w.board.client.GroupRequests(); n != asked {
			t.Errorf("%d requests although nothing has changed", n-asked)
		}
		// It is committed again once a day, for the peer forgets; and one that is gone there is made anew.
		w.kafka.DeleteGroup("g1")
		time.Sleep(5 * time.Hour)
		if n := w.board.client.GroupRequests(); n != asked+2 {
			t.Errorf("%d requests", n-asked)
		}
		if exact, _, _ := w.judge(); exact != 1 {
			t.Errorf("%d are exact", exact)
		}
	})
}

func TestANewLifeNeedNotLookForWhatIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.board.drained(t)
		plainly(w.all, p, 10, "y") // a second transaction
		w.read("g1", p, 4)
		w.read("g2", p, 20)
		w.synced()
		w.stop()
		w.board = w.start()
		defer func() { w.stop() }()
		s := w.synced()
		if n := w.board.client.SearchReads(); n != 0 || s.Groups.Waiting != 0 {
			t.Errorf("%d looks upstream, %+v", n, s.Groups)
		}
		if _, none, faults := w.judge(); none > 0 || len(faults) > 0 {
			t.Error(none, faults)
		}
		was := w.kafka.GroupOffset("g1", "s.b", 0)
		// One that goes on in what is not remembered is told of, and committed when it is through.
		w.read("g1", p, 7)
		if s = w.synced(); s.Groups.Waiting != 1 || !strings.Contains(s.Groups.Problem, "g1: s.b-0: it has read less") {
			t.Errorf("it says %+v", s.Groups)
		}
		if now := w.kafka.GroupOffset("g1", "s.b", 0); now != was {
			t.Errorf("%d is committed", now)
		}
		w.read("g1", p, 15) // of the last transaction: it is looked for
		if s = w.synced(); s.Groups.Waiting != 0 || s.Groups.Problem != "" || w.board.client.SearchReads() == 0 {
			t.Errorf("it says %+v", s.Groups)
		}
		if _, none, faults := w.judge(); none > 0 || len(faults) > 0 {
			t.Error(none, faults)
		}
	})
}

func TestAGroupIsNeverTakenBackNorDisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.kafka.SetGroupOffset("g1", "s.b", 0, 8) // somebody reads on there
		w.read("g1", p, 4)
		w.kafka.Join("g2", true)
		w.read("g2", p, 4)
		w.kafka.RefuseGroup("g3", errors.New("not authorized"))
		w.read("g3", p, 4)
		w.read("h", p, 4)
		s := w.synced()
		if up := w.kafka.GroupOffset("g1", "s.b", 0); up != 8 {
			t.Errorf("g1 is at %d", up)
		}
		for _, name := range []string{"g2", "g3", "h"} {
			if up := w.kafka.GroupOffset(name, "s.b", 0); up != -1 {
				t.Errorf("%s is at %d", name, up)
			}
		}
		if s.Groups.Followed != 3 || !strings.Contains(s.Groups.Problem, "g2: "+upstream.ErrActive.Error()) || s.State != upstream.StateIdle {
			t.Errorf("it says %s, %+v", s.State, s.Groups)
		}
		w.kafka.Join("g2", false)
		w.kafka.RefuseGroup("g3", nil)
		time.Sleep(2 * time.Hour)
		for _, name := range []string{"g2", "g3"} {
			if up := w.kafka.GroupOffset(name, "s.b", 0); up != 4 {
				t.Errorf("%s is at %d", name, up)
			}
		}
		w.read("g2", p, 2) // a person has it read again here
		s = w.synced()
		if up := w.kafka.GroupOffset("g2", "s.b", 0); up != 4 || s.Groups.Problem != "" {
			t.Errorf("it is at %d, %+v", up, s.Groups)
		}
	})
}

func TestGroupsOfOtherPartitionCountsAreNotTranslated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFollowers(t, 6, upstream.Config{})
		w.kafka.Grow("s.b", 2)
		w.board = w.start()
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.read("g1", p, 4)
		s := w.synced()
		if up := w.kafka.GroupOffset("g1", "s.b", 0); up != -1 || s.Groups.Waiting != 1 || !strings.Contains(s.Groups.Problem, "1 partitions here and 2 there") {
			t.Errorf("%d is committed, it says %+v", up, s.Groups)
		}
		if _, err := upstream.New(upstream.Config{Name: "hq", Board: "b", Topics: []string{"*"}, Groups: []string{"*"}, Order: upstream.LiveFirst}, upstream.Env{}); !errors.Is(err, upstream.ErrConfig) {
			t.Errorf("live first: %v", err)
		}
	})
}

func TestGroupsAreOfTheTopicThatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.read("g1", p, 4)
		w.synced()
		w.log.Create("s.b", 1, false)
		anew := w.log.Partition("s.b", 0)
		plainly(nil, anew, 20, "anew")
		stopped(t, w.board, "s.b", 0, upstream.LocalAnew)
		w.read("g1", anew, 7)
		time.Sleep(time.Hour)
		if up := w.kafka.GroupOffset("g1", "s.b", 0); up != 4 {
			t.Errorf("%d is committed while it is stopped", up)
		}
		if err := w.board.link.Resolve(t.Context(), "s.b", 0, upstream.Decision{How: upstream.Earliest}); err != nil {
			t.Fatal(err)
		}
		s := w.synced()
		if up := w.kafka.GroupOffset("g1", "s.b", 0); up != 11+7 || s.Groups.Problem != "" { // ten, and a marker
			t.Errorf("%d is committed afterwards, %+v", up, s.Groups)
		}
	})
}

// Offsets of an older disk come again, and are of other records: what was committed for them before is no place to read on.
func TestAGroupThatComesToAnOffsetOnceMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(nil, p, 10, "x")
		w.board.drained(t)
		older := w.log.Image()
		plainly(nil, p, 20, "y")
		w.read("g1", p, 25)
		w.synced()
		w.stop()

		w.log = older
		w.board = w.start()
		p = w.log.Partition("s.b", 0)
		stopped(t, w.board, "s.b", 0, upstream.LocalShort)
		w.read("g1", p, 5)
		if err := w.board.link.Resolve(t.Context(), "s.b", 0, upstream.Decision{How: upstream.Accept}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			plainly(nil, p, 10, "z")
			w.board.drained(t)
		}
		if got := w.reads("g1", "s.b"); got != "25 y" {
			t.Errorf("meanwhile it would read on at %q", got)
		}
		w.stop()
		w.read("g1", p, 25)
		w.board = w.start()
		w.synced()
		if got := w.reads("g1", "s.b"); got != "25 z" {
			t.Errorf("it would read on at %q", got)
		}
	})
}

// reads is the record that a group would read upstream, "" where it has read all.
func (w *followers) reads(name, topic string) string {
	for _, r := range w.kafka.Everything(topic, 0, w.kafka.GroupOffset(name, topic, 0)) {
		return string(r.Value)
	}
	return ""
}

func TestMoreGroupsThanALinkFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := beginFollowing(t, upstream.Config{})
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.board.drained(t)
		for i := range upstream.GroupsMax + 2 {
			w.read(fmt.Sprintf("g%03d", i+100), p, 4)
		}
		s := w.synced()
		if s.Groups.Followed != upstream.GroupsMax || s.Groups.Left != 2 || !strings.Contains(s.Groups.Problem, "room for 256 groups") {
			t.Errorf("it says %+v", s.Groups)
		}
		w.read("g000", p, 4) // it comes before all others, and takes nobody's place
		w.synced()
		if up := w.kafka.GroupOffset("g000", "s.b", 0); up != -1 {
			t.Errorf("the new one is at %d", up)
		}
		for _, name := range []string{"g100", "g355"} {
			if up := w.kafka.GroupOffset(name, "s.b", 0); up < 4 {
				t.Errorf("%s is at %d", name, up)
			}
		}
	})
}

// gate is a Scheduler that can be shut.
type gate struct {
	single
	shut atomic.Bool
}

func (g *gate) Next(time.Time, upstream.Lane, []bool) (class, bytes int, wait time.Duration) {
	if g.shut.Load() {
		return -1, 0, time.Minute
	}
	return 0, 1 << 30, 0
}

// A link that may send nothing asks nothing.
func TestGroupsWaitForTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFollowers(t, 7, upstream.Config{})
		gate := &gate{}
		w.scheduler = gate
		w.board = w.start()
		defer func() { w.stop() }()
		p := w.parts[3]
		plainly(w.all, p, 10, "x")
		w.synced()
		gate.shut.Store(true)
		w.read("g1", p, 4)
		time.Sleep(time.Hour)
		if n := w.board.client.GroupRequests(); n != 0 {
			t.Errorf("%d requests", n)
		}
		gate.shut.Store(false)
		w.synced()
		if up := w.kafka.GroupOffset("g1", "s.b", 0); up != 4 {
			t.Errorf("%d is committed", up)
		}
	})
}
