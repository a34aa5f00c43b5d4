package mqtt_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/lane"
)

// TestNothingIsLostUnderAnyOrderOfEvents runs a durable subscriber that acknowledges, goes away, comes back, is taken
// over, and a server that restarts or crashes, in seeded random order, beside two publishers. Every message must arrive,
// for each topic and QoS in order: with QoS 1 a repeated one only after a resume, with QoS 2 once. Three more share a
// subscription, one of them a guest whose session ends with its connection: together they get everything. A seed fixes the
// events, not how the goroutines interleave, so a failure may need many rounds to come again: -test.count, or
// MILLRACE_STORIES=20000 seeds.
func TestNothingIsLostUnderAnyOrderOfEvents(t *testing.T) {
	for seed := range uint64(max(lane.Count("MILLRACE_STORIES", 60), 1)) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			story(t, func(w *world) { randomStory(w, rand.New(rand.NewPCG(seed, 7)), fmt.Sprint("seed ", seed)) })
		})
	}
}

func randomStory(w *world, r *rand.Rand, name string) {
	w.cfg.MaxInflight = 1 + r.IntN(6)
	w.cfg.MaxOutput = 1024
	w.log.NumPartitions = 1 + r.IntN(3)
	version := func() packet.Version { return packet.V311 + packet.Version(r.IntN(2)) }
	all := &journal{w: w}
	l := &listener{journal: all, v: version(), next: map[string]int{}, held: map[uint16]bool{}}
	together := make(team)
	listeners := []*listener{l} // and those who share, the last of whom is a guest
	for i := range 3 {
		listeners = append(listeners, &listener{
			journal: all, v: version(), id: fmt.Sprint("member", i), team: together, guest: i == 2, held: map[uint16]bool{},
		})
	}
	var talkers []*talker
	for i := range 2 {
		talkers = append(talkers, &talker{journal: all, v: version(), id: fmt.Sprint("talker", i), next: map[string]int{}})
	}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%s, window %d, %d partitions, %v:\n%s", name, w.cfg.MaxInflight, w.log.NumPartitions, l.v, all)
		}
		w.log.Release() // so that the server can close
	}()
	l.connect()
	l.p.send(sub2(1, "t/#"))
	synctest.Wait()
	l.drain()
	for _, m := range listeners[1:] {
		m.connect()
		m.share()
		synctest.Wait()
		m.drain()
	}
	for _, t := range talkers {
		t.connect()
	}
	synctest.Wait()
	held := false // commits are
	release := func() {
		if held {
			held = false
			l.note("commits go on")
			w.log.Release()
			synctest.Wait()
		}
	}
	drain := func() {
		synctest.Wait()
		for _, l := range listeners {
			l.drain()
		}
		for _, t := range talkers {
			t.drain()
		}
	}
	back := func() { // the server is another
		for _, l := range listeners {
			l.connect()
			if l.guest {
				l.share()
			}
		}
		for _, t := range talkers {
			t.connect()
		}
	}
	for range 150 {
		l := listeners[r.IntN(len(listeners))]
		switch r.IntN(16) {
		case 0, 1, 2, 3, 4:
			i := r.IntN(len(talkers))
			t := talkers[i]
			t.drain()
			qos := byte(1 + r.IntN(2))
			if held {
				qos = 2 // a crash would have QoS 1 come twice into the log
			}
			if len(t.sent) < 10 {
				t.publish(fmt.Sprint("t/", i, "/", r.IntN(2)), qos)
			}
		case 5, 6, 7, 8:
			l.drain()
			for n := r.IntN(len(l.answers) + 1); n > 0; n-- {
				l.answer(r.IntN(min(2, len(l.answers))))
			}
		case 9:
			l.drain()
			l.note("close")
			l.p.conn.Close()
			if r.IntN(2) == 0 {
				synctest.Wait()
				l.drain()
			}
			l.connect()
			if l.guest {
				l.share()
			}
		case 10:
			l.drain()
			l.note("take over")
			old := l.p
			l.connect() // takes over
			if l.guest {
				l.share()
			}
			old.conn.Close()
		case 11:
			release()
			drain()
			l.note("restart")
			w.restart()
			back()
		case 12:
			drain()
			l.note("crash")
			held = false
			w.crashNow()
			back()
		case 13:
			synctest.Wait() // what was published with QoS 1 is in the log
			if held = !held; held {
				l.note("commits wait")
				w.log.Hold()
			} else {
				held = true
				release()
			}
		case 14:
			t := talkers[r.IntN(len(talkers))]
			synctest.Wait()
			t.drain()
			old := t.p
			t.connect()
			old.conn.Close()
		case 15: // the first stays, so that the group does
			if m := listeners[2+r.IntN(2)]; r.IntN(2) == 0 {
				m.note("%s unsubscribes", m.id)
				m.p.post(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t/#"}})
			} else {
				m.share()
			}
		}
		if r.IntN(3) == 0 {
			l.note("wait")
			synctest.Wait()
		}
		if r.IntN(20) == 0 {
			l.note("sleep a minute")
			time.Sleep(time.Minute)
		}
	}
	release()
	settle(listeners, talkers...)
	complete(l, talkers...)
	complete(listeners[1], talkers...)
}
