package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/budget"
)

func share(t *testing.T, size int64) *budget.Share {
	s, err := budget.New(size).Share(t.Name(), size)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLargePacketsShareTheirMemory(t *testing.T) {
	story(t, func(w *world) {
		memory := share(t, 100<<10)
		w.cfg.ReadingSmall = memory
		a, b := w.connect(packet.V5, "a"), w.connect(packet.V5, "b")
		a.wants("connack 0x00")
		b.wants("connack 0x00")
		whole := pub("x", strings.Repeat("m", 60<<10), 1, 1).Append(nil, packet.V5)
		write := func(p *peer, part []byte) {
			go p.conn.Write(part) //nolint:errcheck // the server may close it first
			synctest.Wait()
		}
		write(a, whole[:20<<10])
		if used := memory.Used(); used != int64(len(whole)) {
			t.Fatalf("%d bytes taken for a packet of %d", used, len(whole))
		}
		write(b, whole)
		b.wants() // no room
		time.Sleep(2 * time.Second)
		a.wants("disconnect 0x97", "closed") // it was hurried, and had nothing to send
		b.wants("puback 1 0x00")
		write(b, whole)
		b.wants("puback 1 0x00")
		time.Sleep(time.Hour) // a connection without keep alive is not cut because a large packet came once
		b.send(&packet.Ping{})
		b.wants("pingresp")
		if used := memory.Used(); used != 0 {
			t.Errorf("%d bytes still taken", used)
		}
		// With nobody waiting there is more patience, but not for ever.
		write(b, whole[:20<<10])
		time.Sleep(20 * time.Second)
		write(b, whole[20<<10:])
		b.wants("puback 1 0x00")
		write(b, whole[:20<<10])
		time.Sleep(time.Minute)
		b.wants("disconnect 0x97", "closed")
	})
}

// TestHalfPacketsGiveTheirMemoryBack: a hundred peers each send half of a large packet and fall silent, before an honest
// one comes with whole ones.
func TestHalfPacketsGiveTheirMemoryBack(t *testing.T) {
	for _, tt := range []struct {
		name         string
		half, honest int           // bytes of the payloads
		within       time.Duration // for the honest one to be answered
	}{
		{"large ones do not hold up small ones", 900 << 10, 60 << 10, 0},
		{"nor do small ones hold up large ones", 60 << 10, 900 << 10, 0},
		{"small ones for long", 60 << 10, 60 << 10, 4 * time.Second},
		{"large ones for long", 900 << 10, 900 << 10, 25 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			story(t, func(w *world) {
				w.cfg.Reading, w.cfg.ReadingSmall = share(t, 1200<<10), share(t, 600<<10)
				whole := pub("x", strings.Repeat("m", tt.half), 1, 1).Append(nil, packet.V5)
				var silent []*peer
				for i := range 100 {
					p := w.connect(packet.V5, fmt.Sprint("silent", i))
					p.wants("connack 0x00")
					go p.conn.Write(whole[:len(whole)/2]) //nolint:errcheck // the server may close it first
					silent = append(silent, p)
				}
				p := w.connect(packet.V5, "honest")
				p.wants("connack 0x00")
				synctest.Wait()
				for i := range uint16(3) {
					began := time.Now()
					p.sendSlowly(pub("x", strings.Repeat("h", tt.honest), 1, i+1))
					time.Sleep(tt.within + time.Millisecond)
					p.wants(fmt.Sprintf("puback %d 0x00", i+1))
					if took := time.Since(began); took > tt.within+time.Millisecond {
						t.Errorf("answered after %v", took)
					}
				}
				time.Sleep(time.Minute)
				for _, p := range silent {
					p.wants("disconnect 0x97", "closed")
				}
			})
		})
	}
}

// TestAPacketThatTricklesInGivesWay: a page every half second is progress while nobody waits, and none when somebody does.
func TestAPacketThatTricklesInGivesWay(t *testing.T) {
	for _, contested := range []bool{false, true} {
		story(t, func(w *world) {
			w.cfg.Reading = share(t, 1000<<10)
			slow := w.connect(packet.V5, "slow")
			slow.wants("connack 0x00")
			whole := pub("x", strings.Repeat("m", 600<<10), 1, 1).Append(nil, packet.V5)
			go func() {
				for len(whole) > 0 {
					n := min(len(whole), 4<<10)
					if _, err := slow.conn.Write(whole[:n]); err != nil {
						return
					}
					whole = whole[n:]
					time.Sleep(time.Second / 2)
				}
			}()
			time.Sleep(10 * time.Second)
			if contested {
				honest := w.connect(packet.V5, "honest")
				honest.sendSlowly(pub("x", strings.Repeat("h", 600<<10), 1, 1))
				time.Sleep(5 * time.Second)
				honest.wants("connack 0x00", "puback 1 0x00")
				slow.wants("disconnect 0x97", "closed")
				return
			}
			time.Sleep(2 * time.Minute)
			slow.wants("puback 1 0x00")
		})
	}
}

func TestWhatWaitsToBeWrittenIsBoundedOverAll(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.Output = share(t, 64<<10)
		const clients, messages, size = 20, 40, 8 << 10
		var stuck []*peer
		for i := range clients {
			c := &packet.Connect{Version: packet.V5, ClientID: fmt.Sprint("s", i), CleanStart: true}
			stuck = append(stuck, w.pipe(packet.V5).send(c, sub(1, "x")))
		}
		synctest.Wait()
		p := w.connect(packet.V5, "p")
		p.wants("connack 0x00")
		var want []string
		for i := range messages {
			body := strings.Repeat(string(rune('a'+i%26)), size)
			p.send(pub("x", body, 1, 1))
			p.wants("puback 1 0x00")
			want = append(want, fmt.Sprintf("publish x %q q1 id%d", body, i+1))
			if used := w.s.Output(); used > 64<<10+clients*1024 {
				t.Fatalf("%d bytes wait to be written", used)
			}
		}
		for _, s := range stuck {
			s.read()
		}
		for _, s := range stuck {
			s.wants(append([]string{"connack 0x00", "suback 1 [0x01]"}, want...)...)
		}
		if used := w.s.Output(); used != 0 {
			t.Errorf("%d bytes wait to be written and everything has been read", used)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	story(t, func(w *world) {
		memory := share(t, 24<<10)
		w.cfg.State = memory
		will := func(c *packet.Connect) { c.Will = &packet.Will{Topic: "w", Payload: make([]byte, 20<<10)} }
		a := w.connect(packet.V5, "a", will)
		a.wants("connack 0x00")
		w.connect(packet.V5, "b", will).wants("connack 0x97", "closed")
		a.send(&packet.Disconnect{})
		a.wants("closed")

		b := w.connect(packet.V5, "b")
		b.wants("connack 0x00")
		granted, refused := 0, 0
		for i := range 100 {
			b.send(sub(1, fmt.Sprint("some/filter/", i)))
			synctest.Wait()
			switch s := show(<-b.got); s {
			case "suback 1 [0x01]":
				granted++
			case "suback 1 [0x97]":
				refused++
			default:
				t.Fatal(s)
			}
		}
		if granted == 0 || refused == 0 {
			t.Errorf("%d filters granted, %d refused", granted, refused)
		}
		p := w.connect(packet.V311, "p")
		p.wants("connack 0x03", "closed") // not even a session fits
		b.send(&packet.Disconnect{})
		b.wants("closed")
		if used := memory.Used(); used != 0 {
			t.Errorf("%d bytes are still taken", used)
		}
		retained := pub("kept", "1", 1, 1)
		retained.Retain = true
		p = w.connect(packet.V5, "p").send(retained, retained)
		p.wants("connack 0x00", "puback 1 0x00", "puback 1 0x00")
		end := pub("kept", "", 1, 2)
		end.Retain = true
		p.send(end, &packet.Disconnect{})
		p.wants("puback 2 0x00", "closed")
		if used := memory.Used(); used != 0 {
			t.Errorf("%d bytes are still taken", used)
		}
	})
}

func TestCloseDoesNotWaitForWhoDoesNotRead(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		c := &packet.Connect{Version: v, ClientID: "stuck", CleanStart: true}
		w.pipe(v).send(c, sub(1, "x"))
		synctest.Wait()
		w.connect(v, "p").send(pub("x", "1", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		began := time.Now()
		if err := w.s.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second/4 {
			t.Errorf("closing took %v", took)
		}
	})
}

// While the disk does not keep up, MQTT 5 is told so after a while, and its pings are answered; 3.1.1 is read slowly. Nothing
// that was not stored is acknowledged.
func TestWhileTheDiskStandsStillClientsAreToldTheTruth(t *testing.T) {
	room := int64(len(pub("t", "first", 1, 1).Append(nil, packet.V5)))
	t.Run("5", func(t *testing.T) {
		story(t, func(w *world) {
			w.cfg.Inflight = share(t, room)
			p := w.connect(packet.V5, "p")
			p.send(pub("t", "first", 1, 1)) // makes the topic
			p.wants("connack 0x00", "puback 1 0x00")
			w.log.Hold()
			p.send(pub("t", "first", 1, 2))
			p.sendSlowly(pub("t", "other", 1, 3), pub("t", "other", 2, 4), &packet.Ping{})
			p.wants()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			// The answers come in order: behind what the disk has not taken yet.
			if p.wants("pingresp"); p.t.Failed() {
				return
			}
			w.log.Release()
			p.wants("puback 2 0x00", "puback 3 0x97", "pubrec 4 0x97")
			p.send(pub("t", "after", 1, 5))
			p.wants("puback 5 0x00")
			if n := len(w.log.Records("t")) + len(w.log.Records("mqtt")); n != 3 {
				t.Errorf("%d records of 3", n)
			}
		})
	})
	t.Run("3.1.1", func(t *testing.T) {
		story(t, func(w *world) {
			w.cfg.Inflight = share(t, room)
			p := w.connect(packet.V311, "p")
			p.send(pub("t", "first", 1, 1))
			p.wants("connack 0x00", "puback 1 0x00")
			w.log.Hold()
			p.send(pub("t", "first", 1, 2))
			p.sendSlowly(pub("t", "other", 1, 3), &packet.Ping{})
			time.Sleep(time.Minute)
			p.wants("pingresp")
			w.log.Release()
			p.wants("puback 2 0x00", "puback 3 0x00")
		})
	})
}
