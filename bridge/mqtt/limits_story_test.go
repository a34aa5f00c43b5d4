package mqtt_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
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
	room := int64(len(pub("t", "first", 1, 1).Append(nil, packet.V5))) + mqtt.PublishCost
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

// Two listeners, one of them with limits of its own: each binds who comes by it and nobody else, tells MQTT 5 so, and has
// from the door what it does not say.
func TestListenersHaveLimitsOfTheirOwn(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.Limits = mqtt.Limits{MaxPacketSize: 4096, MaxSubscriptions: 3, MaxTopicLevels: 4, ReceiveMaximum: 5, MaxInflight: 4, MaxKeepAlive: 600, TopicAliases: 7, TopicAliasesBroker: 3}
		wide := w.listen(&mqtt.Listener{})
		narrow := w.listen(&mqtt.Listener{Limits: mqtt.Limits{
			MaxPacketSize: 256, MaxSubscriptions: 1, MaxTopicLevels: 2, ReceiveMaximum: 2, MaxInflight: 1, MaxKeepAlive: 60, TopicAliases: 1, TopicAliasesBroker: 1,
		}})
		free := w.listen(&mqtt.Listener{Limits: mqtt.Limits{MaxKeepAlive: -1, MaxTopicLevels: 20}})
		for _, tt := range []struct {
			name string
			at   *quay
			has  mqtt.Limits
		}{
			{"wide", wide, w.cfg.Limits},
			{"narrow", narrow, mqtt.Limits{MaxPacketSize: 256, MaxSubscriptions: 1, MaxTopicLevels: 2, ReceiveMaximum: 2, MaxInflight: 1, MaxKeepAlive: 60, TopicAliases: 1, TopicAliasesBroker: 1}},
			{"free", free, mqtt.Limits{MaxPacketSize: 4096, MaxSubscriptions: 3, MaxTopicLevels: 20, ReceiveMaximum: 5, MaxInflight: 4, MaxKeepAlive: -1, TopicAliases: 7, TopicAliasesBroker: 3}},
		} {
			for _, asked := range []uint16{0, 60, 61, 601} {
				over := tt.has.MaxKeepAlive > 0 && (asked == 0 || int(asked) > tt.has.MaxKeepAlive)
				p := tt.at.connect(w, &packet.Connect{Version: v, ClientID: "asker", CleanStart: true, KeepAlive: asked})
				synctest.Wait()
				c := (<-p.got).(*packet.Connack)
				switch {
				case v == packet.V311:
					if refused := c.Reason == 2; refused != over {
						t.Errorf("%s: a keep alive of %d is answered with %v", tt.name, asked, c.Reason)
					}
				case c.Properties.Has(packet.ServerKeepAlive) != over || over && int(c.Properties.ServerKeepAlive) != tt.has.MaxKeepAlive ||
					int(c.Properties.MaximumPacketSize) != tt.has.MaxPacketSize || int(c.Properties.ReceiveMaximum) != tt.has.ReceiveMaximum ||
					int(c.Properties.TopicAliasMaximum) != tt.has.TopicAliases:
					t.Errorf("%s: CONNACK for a keep alive of %d has %+v", tt.name, asked, c.Properties)
				}
				p.conn.Close()
				synctest.Wait()
			}
			w.holds(v, tt.name, tt.at, &tt.has)
		}
	})
}

// holds goes to every limit of a listener, and a step over it.
func (w *world) holds(v packet.Version, name string, at *quay, has *mqtt.Limits) {
	w.t.Helper()
	topic := func(levels int) string { return name + strings.Repeat("/x", levels-1) }
	dial := func(id string) *peer {
		p := at.connect(w, &packet.Connect{Version: v, ClientID: name + id, CleanStart: true, KeepAlive: 60})
		p.wants("connack 0x00")
		return p
	}
	// Subscriptions, and how deep: a filter too deep is refused before it counts.
	reader := dial("reader")
	refused := map[packet.Version][2]string{packet.V311: {"0x80", "0x80"}, packet.V5: {"0x8F", "0x97"}}[v]
	reader.send(sub(1, topic(has.MaxTopicLevels)))
	reader.wants("suback 1 [0x01]")
	reader.send(sub(2, topic(has.MaxTopicLevels+1)))
	reader.wants(fmt.Sprintf("suback 2 [%s]", refused[0]))
	for i := 1; i <= has.MaxSubscriptions; i++ {
		want := "0x01"
		if i == has.MaxSubscriptions {
			want = refused[1]
		}
		reader.send(sub(3, fmt.Sprint("more", i)))
		reader.wants(fmt.Sprintf("suback 3 [%s]", want))
	}
	// Publishes on their way.
	writer := dial("writer")
	w.log.Hold()
	var packets []packet.Packet
	var acks, arrive []string
	for i := range max(has.ReceiveMaximum, has.MaxInflight) + 1 {
		packets = append(packets, pub(topic(has.MaxTopicLevels), fmt.Sprint(i), 1, uint16(i+1)))
		acks = append(acks, fmt.Sprintf("puback %d 0x00", i+1))
		arrive = append(arrive, fmt.Sprintf("publish %s %q q1 id%d", topic(has.MaxTopicLevels), fmt.Sprint(i), i+1))
	}
	held := w.log.Held()
	writer.sendSlowly(packets...)
	synctest.Wait()
	if n := w.log.Held() - held; n != has.ReceiveMaximum {
		w.t.Errorf("%s: %d publishes are on their way, want %d", name, n, has.ReceiveMaximum)
	}
	w.log.Release()
	writer.wants(acks...)
	// Deliveries on their way.
	reader.wants(arrive[:has.MaxInflight]...)
	for i := range has.MaxInflight {
		reader.send(ack(uint16(i + 1)))
	}
	reader.wants(arrive[has.MaxInflight:min(2*has.MaxInflight, len(arrive))]...)
	// Packets: one byte more than the largest ends the connection.
	full := func(size int) *packet.Publish {
		p := pub(name, "", 1, 9)
		p.Payload = make([]byte, size-len(p.Append(nil, v))-1) // a second byte for the length
		return p
	}
	writer.send(full(has.MaxPacketSize))
	writer.wants("puback 9 0x00")
	writer.sendSlowly(full(has.MaxPacketSize + 1))
	if v == packet.V5 {
		writer.wants("disconnect 0x95", "closed")
	} else {
		writer.wants("closed")
	}
	// Topics and aliases.
	deep := pub(topic(has.MaxTopicLevels+1), "", 1, 10)
	if v == packet.V311 { // which has no answer for it
		dial("deep").send(deep).wants("closed")
		return
	}
	writer = dial("writer")
	writer.send(deep)
	writer.wants("puback 10 0x90")
	aliased := func(n int) *packet.Publish {
		p := pub(name, "", 1, 11)
		p.Properties = &packet.Properties{Present: packet.Of(packet.TopicAlias), TopicAlias: uint16(n)}
		return p
	}
	writer.send(aliased(has.TopicAliases), aliased(has.TopicAliases+1))
	writer.wants("puback 11 0x00", "disconnect 0x94", "closed")
	// The server's aliases: topics beyond those it may number are sent with their names.
	c := &packet.Connect{Version: v, ClientID: name + "aliased", CleanStart: true, KeepAlive: 60}
	props(c, packet.TopicAliasMaximum).TopicAliasMaximum = 100
	p := at.connect(w, c)
	p.wants("connack 0x00")
	p.send(sub(1, name+"/#"))
	p.wants("suback 1 [0x01]")
	writer = dial("writer")
	var highest uint16
	for i := range uint16(8) {
		writer.send(pub(fmt.Sprintf("%s/%d", name, i), "", 1, 1))
		writer.wants("puback 1 0x00")
		for _, got := range p.takePackets() {
			if list := got.(*packet.Publish).Properties; list.Has(packet.TopicAlias) {
				highest = max(highest, list.TopicAlias)
			}
			p.send(ack(got.(*packet.Publish).ID))
		}
	}
	if int(highest) != has.TopicAliasesBroker {
		w.t.Errorf("%s: aliases up to %d are sent, want %d", name, highest, has.TopicAliasesBroker)
	}
}

// A session goes from one listener to another: what it has it keeps, and what it asks for is bounded by where it is now.
func TestASessionThatChangesItsListener(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		wide, narrow := w.listen(&mqtt.Listener{}), w.listen(&mqtt.Listener{Limits: mqtt.Limits{MaxSubscriptions: 1, MaxTopicLevels: 1, MaxInflight: 1}})
		c := &packet.Connect{Version: v, ClientID: "a"}
		keep(c)
		a := wide.connect(w, c)
		a.wants("connack 0x00")
		a.send(sub(1, "x/1", "x/2"))
		a.wants("suback 1 [0x01 0x01]")
		a.send(&packet.Disconnect{})
		a.wants("closed")
		p := wide.dial(w, "p")
		p.wants("connack 0x00")
		p.send(pub("x/1", "1", 1, 1), pub("x/2", "2", 1, 2))
		p.wants("puback 1 0x00", "puback 2 0x00")
		a = narrow.connect(w, c)
		a.wants("connack 0x00 present", `publish x/1 "1" q1 id1`)
		a.send(ack(1))
		a.wants(`publish x/2 "2" q1 id2`)
		a.send(sub(2, "x"))
		a.wants(map[packet.Version]string{packet.V311: "suback 2 [0x80]", packet.V5: "suback 2 [0x97]"}[v])
	})
}

// A listener with limits that are none is an error before any connection.
func TestAListenerWithLimitsThatAreNone(t *testing.T) {
	story(t, func(w *world) {
		for _, l := range []mqtt.Limits{{MaxPacketSize: 1}, {ReceiveMaximum: 65536}, {MaxSubscriptions: -1}, {MaxKeepAlive: 65536}} {
			q := newQuay()
			if err := w.server().Serve(&mqtt.Listener{Listener: q, Limits: l}); err == nil || !strings.Contains(err.Error(), "want") {
				t.Errorf("%+v: %v", l, err)
			}
			<-q.closed
		}
	})
}
