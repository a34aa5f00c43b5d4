package mqtt_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/testbench/lane"
)

// TestNothingIsLostUnderAnyOrderOfEvents runs a durable subscriber that acknowledges, goes away, comes back, is taken
// over, and a server that restarts, in seeded random order, beside a publisher. Every message must arrive, and for each
// topic in order: a repeated one only with DUP or after a resume. A seed fixes the events, not how the goroutines
// interleave, so a failure may need many rounds to come again: -test.count, or MILLRACE_STORIES=20000 seeds.
func TestNothingIsLostUnderAnyOrderOfEvents(t *testing.T) {
	for seed := range uint64(max(lane.Count("MILLRACE_STORIES", 60), 1)) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) { story(t, func(w *world) { randomStory(w, seed) }) })
	}
}

func FuzzSession(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { story(t, func(w *world) { randomStory(w, seed) }) })
}

type subscriber struct {
	w       *world
	v       packet.Version
	p       *peer
	unacked []uint16
	greeted bool // CONNACK has come
	// next is what is expected of each topic at the earliest: one more than the highest seen.
	next map[string]int
	// last is the newest of each topic on this connection: there nothing comes twice, or out of order.
	last map[string]int
	// events are what happened so far; a failure prints them.
	events []string
}

func (s *subscriber) note(format string, args ...any) {
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

func (s *subscriber) connect() {
	s.note("connect")
	s.p = s.w.connect(s.v, "durable", keep)
	s.unacked = nil
	s.last = map[string]int{}
	s.greeted = false
	synctest.Wait()
}

// drain takes what has come and checks it.
func (s *subscriber) drain() {
	s.w.t.Helper()
	for {
		select {
		case pkt, ok := <-s.p.got:
			if !ok {
				return
			}
			m, ok := pkt.(*packet.Publish)
			if !ok {
				s.greeted = s.greeted || pkt.Type() == packet.CONNACK
				continue
			}
			if !s.greeted {
				s.w.t.Fatalf("%s: %q came before CONNACK", m.Topic, m.Payload)
			}
			var n int
			if _, err := fmt.Sscan(string(m.Payload), &n); err != nil {
				s.w.t.Fatal(err)
			}
			s.note("got %s %d id %d dup %v", m.Topic, n, m.ID, m.Dup)
			if n > s.next[m.Topic] {
				s.w.t.Fatalf("%s: got %d, and %d never came", m.Topic, n, s.next[m.Topic])
			}
			if last, ok := s.last[m.Topic]; ok && n <= last {
				s.w.t.Fatalf("%s: got %d after %d on one connection", m.Topic, n, last)
			}
			s.last[m.Topic] = n
			s.next[m.Topic] = max(s.next[m.Topic], n+1)
			s.unacked = append(s.unacked, m.ID)
		default:
			return
		}
	}
}

func randomStory(w *world, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	w.cfg.MaxInflight = 1 + r.IntN(6)
	w.cfg.MaxOutput = 1024
	w.log.NumPartitions = 1 + r.IntN(3)
	s := &subscriber{w: w, v: packet.V311 + packet.Version(r.IntN(2)), next: map[string]int{}}
	defer func() {
		if w.t.Failed() {
			w.t.Logf("seed %d, window %d, %d partitions, %v:\n%s", seed, w.cfg.MaxInflight, w.log.NumPartitions, s.v,
				strings.Join(s.events, "\n"))
		}
	}()
	s.connect()
	s.p.send(sub(1, "t/#"))
	synctest.Wait()
	sent := map[string]int{}
	var p *peer
	for range 120 {
		switch r.IntN(12) {
		case 0, 1, 2, 3, 4:
			if p == nil {
				p = w.connect(packet.V5, "publisher")
			}
			topic := fmt.Sprint("t/", r.IntN(3))
			s.note("publish %s %d", topic, sent[topic])
			p.send(pub(topic, fmt.Sprint(sent[topic]), 1, 1))
			sent[topic]++
		case 5, 6, 7, 8:
			s.drain()
			for n := r.IntN(len(s.unacked) + 1); n > 0; n-- {
				i := r.IntN(min(2, len(s.unacked)))
				s.note("ack %d", s.unacked[i])
				s.p.send(ack(s.unacked[i]))
				s.unacked = append(s.unacked[:i], s.unacked[i+1:]...)
			}
		case 9:
			s.drain()
			s.note("close")
			s.p.conn.Close()
			if r.IntN(2) == 0 {
				synctest.Wait()
				s.drain()
			}
			s.connect()
		case 10:
			s.drain()
			s.note("take over")
			old := s.p
			s.connect() // takes over
			old.conn.Close()
		case 11:
			synctest.Wait()
			s.drain()
			s.note("restart")
			w.restart()
			p = nil
			s.connect()
		}
		if r.IntN(3) == 0 {
			s.note("wait")
			synctest.Wait()
		}
		if r.IntN(20) == 0 {
			s.note("sleep a minute")
			time.Sleep(time.Minute)
		}
	}
	for range 1000 {
		synctest.Wait()
		s.drain()
		if len(s.unacked) == 0 {
			break
		}
		for _, id := range s.unacked {
			s.note("ack %d", id)
			s.p.send(ack(id))
		}
		s.unacked = nil
	}
	for topic, n := range sent {
		if s.next[topic] != n {
			w.t.Errorf("%s: %d of %d arrived", topic, s.next[topic], n)
		}
	}
}
