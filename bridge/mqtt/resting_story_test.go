package mqtt_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// rests checks how many sessions rest, once nothing moves any more, and how many there are beside them.
func (w *world) rests(resting, others int) {
	w.t.Helper()
	synctest.Wait()
	if r, o := mqtt.Resting(w.server()); r != resting || o != others {
		w.t.Errorf("%d sessions rest and %d do not, want %d and %d", r, o, resting, others)
	}
}

// bye ends the peer's connection as it should be.
func (p *peer) bye() {
	p.t.Helper()
	p.send(&packet.Disconnect{})
	p.wants("closed")
	p.conn.Close()
}

// What is in flight both ways is the session's again, state by state, and its identifiers go on.
func TestWhatIsInFlightRestsWithItsSession(t *testing.T) {
	for _, between := range []func(*world){func(*world) {}, (*world).restart, (*world).crashNow} {
		both(t, func(w *world, v packet.Version) {
			a := w.connect(v, "a", keep).send(sub2(1, "t"), pub("in", "x", 2, 7), pub("in", "y", 2, 65535), pub("in", "z", 2, 8), pubrel(8))
			a.wants("connack 0x00", "suback 1 [0x02]", "pubrec 7 0x00", "pubrec 65535 0x00", "pubrec 8 0x00", "pubcomp 8 0x00")
			w.produce("t", "1", "2", "3")
			a.wants(`publish t "1" q2 id1`, `publish t "2" q2 id2`, `publish t "3" q2 id3`)
			w.connect(v, "p").send(pub("t", "4", 1, 1)).wants("connack 0x00", "puback 1 0x00")
			a.wants(`publish t "4" q1 id4`)
			a.send(pubrec(1), pubrec(2), pubcomp(1))
			a.wants("pubrel 1 0x00", "pubrel 2 0x00")
			w.rests(0, 2)
			a.bye()
			w.rests(1, 1)
			between(w)
			a = w.connect(v, "a", keep)
			w.rests(0, 1+w.server().Connections()-1)
			a.wants("connack 0x00 present", "pubrel 2 0x00", `publish t "3" q2 id3 dup`, `publish t "4" q1 id4 dup`)
			a.send(again(pub("in", "x", 2, 7)), again(pub("in", "y", 2, 65535)), pubrel(65535), pubrel(8), pubcomp(2), pubrec(3), ack(4))
			a.wants("pubrec 7 0x00", "pubrec 65535 0x00", "pubcomp 65535 0x00", unknown(v, 8), "pubrel 3 0x00")
			if got := w.stored(); got != "x y z 1 2 3 4" {
				w.t.Errorf("the log has %q", got)
			}
			w.produce("t", "5")
			a.wants(`publish t "5" q2 id5`)
		})
	}
}

// A session rests when the log has what it is, and not before: not while its record is on its way or could not be written,
// or while a publish of QoS 2 is on its way. Its will waits without it.
func TestASessionRestsWhenTheLogHasIt(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.log.Hold()
		a.bye()
		time.Sleep(2 * time.Minute)
		w.rests(0, 1)
		a = w.connect(v, "a", keep) // while it is on its way
		a.wants("connack 0x00 present")
		w.log.Release()
		w.rests(0, 1)
		a.bye()
		w.rests(1, 0)
	})
	story(t, func(w *world) {
		p := w.connect(packet.V5, "p")
		a := w.connect(packet.V5, "a", keep).send(sub2(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x02]")
		w.produce("t", "1")
		a.wants(`publish t "1" q2 id1`)
		w.log.Fail(fmt.Errorf("disk at its reserve: %w", mqtt.ErrFull))
		a.send(pubrec(1))
		a.wants() // PUBREL waits for the disk
		a.bye()
		w.rests(0, 2)
		time.Sleep(5 * time.Minute)
		w.rests(0, 2) // still none of it is in the log
		w.log.Fail(nil)
		time.Sleep(2 * time.Minute)
		w.rests(1, 1)
		p.wants("connack 0x00")
		w.connect(packet.V5, "a", keep).wants("connack 0x00 present", "pubrel 1 0x00")
	})
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(pub("t", "1", 2, 1))
		a.wants("connack 0x00", "pubrec 1 0x00")
		w.log.Hold()
		a.send(pub("t", "2", 2, 2))
		a.wants()
		a.conn.Close()
		synctest.Wait()
		for w.log.Held() > 1 { // the session's record lands, the publish does not
			w.log.ReleaseOne(w.log.Held() - 1)
		}
		w.rests(0, 1)
		w.log.Release()
		time.Sleep(2 * time.Minute)
		w.rests(1, 0)
		a = w.connect(packet.V5, "a", keep).send(again(pub("t", "2", 2, 2)))
		a.wants("connack 0x00 present", "pubrec 2 0x00")
		if got := w.stored(); got != "1 2" {
			t.Errorf("the log has %q", got)
		}
	})
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep, func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "w", Properties: &packet.Properties{Present: packet.Of(packet.WillDelay), WillDelay: 100}}
		})
		a.wants("connack 0x00")
		a.conn.Close()
		w.rests(1, 0)
		time.Sleep(99 * time.Second)
		a = w.connect(packet.V5, "a", keep) // in time
		a.wants("connack 0x00 present")
		a.bye()
		w.rests(1, 0)
		time.Sleep(3 * time.Minute)
		if got := w.stored(); got != "" {
			t.Errorf("the log has %q", got)
		}
	})
	for _, back := range []bool{false, true} { // the end of a session that rests is the latest time for its will
		story(t, func(w *world) {
			w.connect(packet.V5, "x", keep, func(c *packet.Connect) { c.Properties.SessionExpiry = 8 }).bye2() // a sweep before
			a := w.connect(packet.V5, "a", keep, func(c *packet.Connect) {
				c.Properties.SessionExpiry = 10
				c.Will = &packet.Will{Topic: "w", Payload: []byte("gone"), Properties: &packet.Properties{Present: packet.Of(packet.WillDelay), WillDelay: 100}}
			})
			a.wants("connack 0x00")
			a.conn.Close()
			w.rests(2, 0)
			time.Sleep(10 * time.Second)
			if back {
				w.connect(packet.V5, "a", keep).wants("connack 0x00")
			}
			time.Sleep(10 * time.Second)
			if got := w.stored(); got != "gone" {
				t.Errorf("the log has %q", got)
			}
			if back {
				w.rests(0, 1)
			} else {
				w.rests(0, 0)
			}
		})
	}
}

// Who still holds a session that rests can do nothing with it: its client may be back on another.
func TestARestingSessionIsOverForWhoHoldsIt(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a", keep).send(sub(1, "t"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		publish, write := mqtt.HoldSession(w.server(), "a")
		if err := publish(); err != nil {
			t.Fatal(err)
		}
		a.bye()
		w.rests(1, 0)
		before := len(w.log.Records("__mqtt_sessions"))
		if publish() == nil || write() == nil {
			t.Error("it takes a publish, or is written")
		}
		if n := len(w.log.Records("__mqtt_sessions")); n != before {
			t.Errorf("%d records are written", n-before)
		}
	})
}

// Who rests gets its subscriptions' messages as if it had not: from where it was, of a partition made meanwhile from the
// start, of a deleted topic none, and of one made again under that name all.
func TestTopicsComeAndGoWhileASessionRests(t *testing.T) {
	for _, sweep := range []bool{false, true} {
		both(t, func(w *world, v packet.Version) {
			for _, topic := range []string{"stays", "goes", "again"} {
				w.log.Produce(topic, 0, rec("old"))
			}
			a := w.connect(v, "a", keep).send(sub(1, "#"))
			a.wants("connack 0x00", "suback 1 [0x01]")
			for _, topic := range []string{"stays", "goes", "again"} {
				w.log.Produce(topic, 0, rec("sent"))
			}
			synctest.Wait()
			a.take()
			a.send(ack(1), ack(2)) // what came with the third is in flight
			synctest.Wait()
			a.bye()
			w.rests(1, 0)
			w.log.Produce("stays", 0, rec("next"))
			w.log.Produce("goes", 0, rec("lost"))
			w.log.Delete("goes")
			w.log.Delete("again")
			if sweep {
				time.Sleep(2 * time.Minute)
			}
			w.log.Produce("again", 0, rec("first"))
			w.log.Produce("made", 0, rec("new"))
			a = w.connect(v, "a", keep)
			got := strings.Join(a.take(), "\n")
			for _, want := range []string{"connack 0x00 present", `publish stays "next" q1`, `publish again "first" q1`, `publish made "new" q1`} {
				if !strings.Contains(got, want) {
					w.t.Errorf("got\n%s\nwant %s", got, want)
				}
			}
			if strings.Contains(got, "lost") || strings.Contains(got, "old") {
				w.t.Errorf("got\n%s", got)
			}
		})
	}
}

// A shared subscription goes on without its members, each of which may rest; what one had with QoS 2 stays its own, even
// when its group has ended and there is another of that name.
func TestMembersOfAGroupRest(t *testing.T) {
	for _, between := range []func(*world){func(*world) {}, (*world).restart, (*world).crashNow} {
		both(t, func(w *world, v packet.Version) {
			a := w.connect(v, "a", keep).send(sub2(1, "$share/g/t"))
			a.wants("connack 0x00", "suback 1 [0x02]")
			b := w.connect(v, "b", keep).send(sub2(1, "$share/g/t", "$share/h/u"))
			b.wants("connack 0x00", "suback 1 [0x02 0x02]")
			w.produce("t", "1", "2")
			a.wants(`publish t "1" q2 id1`)
			b.wants(`publish t "2" q2 id1`)
			a.bye()
			w.rests(1, 1)
			w.produce("t", "3")
			b.wants(`publish t "3" q2 id2`)
			b.bye()
			w.rests(2, 0)
			w.produce("t", "4")
			w.produce("u", "5") // nobody is there
			between(w)
			w.rests(2, 0)
			a = w.connect(v, "a", keep)
			a.wants("connack 0x00 present", `publish t "1" q2 id1 dup`, `publish t "4" q2 id2`)
			a.send(&packet.Unsubscribe{ID: 3, Filters: []string{"$share/g/t"}})
			a.wants(map[packet.Version]string{packet.V311: "unsuback 3 []", packet.V5: "unsuback 3 [0x00]"}[v])
			a.bye()
			w.connect(v, "b").wants("connack 0x00") // both groups end
			w.rests(1, 1)
			between(w)
			c := w.connect(v, "c").send(sub2(1, "$share/g/t"))
			c.wants("connack 0x00", "suback 1 [0x02]")
			a = w.connect(v, "a", keep)
			a.wants("connack 0x00 present", `publish t "1" q2 id1 dup`, `publish t "4" q2 id2 dup`)
			a.send(pubrec(1), pubcomp(1), pubrec(2), pubcomp(2))
			a.wants("pubrel 1 0x00", "pubrel 2 0x00")
			w.produce("t", "6")
			c.wants(`publish t "6" q2 id1`)
			a.wants()
		})
	}
}

// A resting session has ended when its time has come, whether or not it was swept away; many that end together are.
func TestRestingSessionsExpire(t *testing.T) {
	for _, between := range []func(*world){func(*world) {}, (*world).restart} {
		story(t, func(w *world) {
			w.cfg.MaxSessions, w.cfg.MaxGroupMembers = 1500, 1500
			hour := func(seconds uint32) func(*packet.Connect) {
				return func(c *packet.Connect) { keep(c); c.Properties.SessionExpiry = seconds }
			}
			many := 1400 // more than one sweep ends
			if testing.Short() {
				many = 40
			}
			for i := range many {
				p := w.connect(packet.V5, fmt.Sprint("many", i), hour(3590)).send(sub(1, "$share/g/t", "x"), pub("y", "1", 2, 1))
				p.wants("connack 0x00", "suback 1 [0x01 0x01]", "pubrec 1 0x00")
				p.bye()
			}
			w.connect(packet.V5, "short", hour(3585)).wants("connack 0x00")
			w.connect(packet.V5, "long", hour(7000)).wants("connack 0x00")
			w.connect(packet.V5, "ever", hour(1<<32-1)).wants("connack 0x00")
			w.restart() // closes them
			between(w)
			w.rests(many+3, 0)
			time.Sleep(3584 * time.Second)
			w.rests(many+3, 0)
			time.Sleep(time.Second)
			w.rests(many+2, 0)
			time.Sleep(4 * time.Second)
			w.connect(packet.V5, "many1", hour(3590)).wants("connack 0x00 present")
			// The sweep that came for "short" keeps the next away for a while: they are over all the same.
			time.Sleep(time.Second)
			w.connect(packet.V5, "many2", hour(3590)).wants("connack 0x00")
			w.rests(many, 2)
			time.Sleep(5 * time.Second)
			w.rests(2, 2)
			time.Sleep(time.Hour)
			w.rests(1, 2)
			if n := len(w.live()); n != 4 { // ever, many1 with its identifier and its group, and many2, of which nothing is written
				t.Errorf("the log has %q", w.live())
			}
		})
	}
}

// agedClock is wrong by skew, and its ages run all the same: as those of a board that starts in 1970, from what the time had
// reached.
type agedClock struct{ skew *atomic.Int64 }

func (c agedClock) Now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())) }

func (agedClock) AgeMS() int64 { return time.Now().UnixMilli() }

func (agedClock) Arrived(_ [16]byte, _ int32, _, stampMS int64) int64 { return stampMS }

// A session that was away when the server started ends by ages: whatever the clock says then, or is set to later, ends
// none too early and keeps none for longer.
func TestTheClockIsSetWhileSessionsRest(t *testing.T) {
	story(t, func(w *world) {
		var skew atomic.Int64
		w.cfg.Clock = agedClock{&skew}
		p := w.connect(packet.V5, "a", keep)
		p.wants("connack 0x00")
		p.bye()
		skew.Store(int64(-50 * 365 * 24 * time.Hour)) // a board without a battery for its clock
		w.restart()
		w.rests(1, 0)
		time.Sleep(30 * time.Minute)
		w.rests(1, 0)
		skew.Store(0)
		time.Sleep(29 * time.Minute)
		w.rests(1, 0)
		time.Sleep(2 * time.Minute)
		w.rests(0, 0)
	})
}

// Whose session it is, is known while it rests, and who is refused does not wake it.
func TestARestingSessionIsItsOwners(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.guarded()
		as := func(name string, password string) func(*packet.Connect) {
			return func(c *packet.Connect) {
				keep(c)
				c.Username, c.Password, c.HasUsername, c.HasPassword = name, []byte(password), true, true
			}
		}
		w.connect(v, "a", as("ann", "open sesame")).send(sub(1, "t")).bye2()
		w.rests(1, 0)
		no := map[packet.Version]string{packet.V311: "connack 0x02", packet.V5: "connack 0x85"}[v]
		w.connect(v, "a", as("bob", "hunter two")).wants(no, "closed")
		w.connect(v, "a", as("bob", "hunter two"), func(c *packet.Connect) { c.CleanStart = true }).wants(no, "closed")
		w.rests(1, 0)
		w.restart()
		w.connect(v, "a", as("bob", "hunter two")).wants(no, "closed")
		w.rests(1, 0)
		w.connect(v, "a", as("ann", "open sesame")).wants("connack 0x00 present")
		if v == packet.V5 {
			w.connect(v, "other", as("ann", "open sesame"), func(c *packet.Connect) { c.Properties.SessionExpiry = 1 }).bye2()
			time.Sleep(2 * time.Second)
			w.connect(v, "b", as("ann", "open sesame"), func(c *packet.Connect) { c.Properties.SessionExpiry = 3 }).bye2()
			w.rests(1, 1)
			time.Sleep(3 * time.Second)
			w.rests(1, 1) // a sweep comes later
			w.connect(v, "b", as("bob", "hunter two")).wants("connack 0x00")
		}
	})
}

// The limits count who rests, $SYS does, and what it holds of the memory is what it takes. Everybody may come back to half
// of that, however much rests; who may not is there for the next try.
func TestRestingSessionsAndLimits(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxSessions = 21
		state := share(t, 24<<10)
		w.cfg.State = state
		for i := range 20 {
			p := w.connect(packet.V5, fmt.Sprint("device", i), keep).send(sub(1, fmt.Sprint("cmd/", i), "$share/g/t"))
			p.wants("connack 0x00", "suback 1 [0x01 0x01]")
			p.bye()
		}
		w.rests(20, 0)
		each := (state.Used() - 1500) / 20 // the group
		if each < 80 || each > 250 {
			t.Errorf("each holds %d bytes of the memory", each)
		}
		a := w.connect(packet.V5, "a").send(sub(1, "$SYS/broker/subscriptions/count", "$SYS/broker/shared_subscriptions/count", "$SYS/broker/clients/total"))
		a.wants("connack 0x00", "suback 1 [0x01 0x01 0x01]", `publish $SYS/broker/subscriptions/count "23" q0 retain`,
			`publish $SYS/broker/shared_subscriptions/count "20" q0 retain`, `publish $SYS/broker/clients/total "21" q0 retain`)
		w.connect(packet.V5, "b").wants("connack 0x97", "closed")
		a.bye()

		restarted := state.Used()
		w.restart()
		state = share(t, 24<<10)
		w.s.Close()
		w.s, w.cfg.State = nil, state
		w.rests(20, 0)
		if used := state.Used(); used > restarted {
			t.Errorf("%d bytes of memory are taken after a restart, %d before", used, restarted)
		}
		state.Overdraw(24 << 10) // somebody else remembers
		var in []*peer
		for i := range 20 {
			p := w.connect(packet.V5, fmt.Sprint("device", i), keep)
			if got := p.take(); got[0] == "connack 0x00 present" {
				in = append(in, p)
			} else if strings.Join(got, " ") != "connack 0x97 closed" {
				t.Error(got)
			}
		}
		if len(in) < 3 || len(in) > 12 {
			t.Errorf("%d are let in", len(in))
		}
		w.rests(20-len(in), len(in))
		for _, p := range in {
			p.bye()
		}
		w.rests(20, 0)
		state.Release(24 << 10)
		for i := range 20 {
			w.connect(packet.V5, fmt.Sprint("device", i), keep, func(c *packet.Connect) { c.CleanStart = true }).wants("connack 0x00")
			w.rests(19-i, 1)
			w.connect(packet.V5, fmt.Sprint("device", i)).bye2()
		}
		w.rests(0, 0)
		if used := state.Used(); used != 0 {
			t.Errorf("%d bytes of memory are taken by nobody", used)
		}
		if got := w.live(); len(got) != 0 {
			t.Errorf("the log has %q", got)
		}
	})
}

// bye2 is bye, whatever has come before.
func (p *peer) bye2() {
	p.t.Helper()
	synctest.Wait()
	p.send(&packet.Disconnect{})
	p.take()
	p.conn.Close()
}
