package mqtt_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
	"millrace/bridge/payload"
	"millrace/broker/auth"
	"millrace/broker/record"
)

// Wills and the end of the server.

// willGrace is how long wills wait after a start.
const willGrace = 30 * time.Second

// gone counts the wills in the default topic.
func (w *world) gone() int { return w.count("gone") }

// count is how often a body is in the default topic.
func (w *world) count(body string) (n int) {
	for _, r := range w.log.Records("mqtt") {
		if string(r.Value) == body {
			n++
		}
	}
	return n
}

// willRecords counts the records of wills there ever were.
func (w *world) willRecords() (n int) {
	for _, r := range w.log.Records("__mqtt_sessions") {
		if strings.HasSuffix(string(r.Key), "\x00w") {
			n++
		}
	}
	return n
}

// left are the clients the log has a will of.
func (w *world) left() (clients []string) {
	for _, key := range w.live() {
		if client, ok := strings.CutSuffix(key, "\x00w"); ok {
			clients = append(clients, client)
		}
	}
	return clients
}

func (w *world) leavesWills(want ...string) {
	w.t.Helper()
	synctest.Wait()
	if got := slices.Sorted(slices.Values(w.left())); !slices.Equal(got, want) {
		w.t.Errorf("the log has wills of %q, want %q", got, want)
	}
}

// ends are the ways a server ends with its connections.
var ends = map[string]func(*world){"restart": (*world).restart, "crash": (*world).crashNow}

func eachEnd(t *testing.T, fn func(w *world, v packet.Version, end func(*world))) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) { both(t, func(w *world, v packet.Version) { fn(w, v, end) }) })
	}
}

// The connection ended with the server, so the will is due, once [MQTT-3.1.2-8]: not before its readers had time to be back.
func TestWillsOutliveTheServer(t *testing.T) {
	eachEnd(t, func(w *world, v packet.Version, end func(*world)) {
		a := w.connect(v, "a", func(c *packet.Connect) {
			withWill(0)(c)
			c.Will.Retain = true
		})
		a.wants("connack 0x00")
		w.connect(v, "b", withWill(0)).send(&packet.Disconnect{}).wants("connack 0x00", "closed")
		w.leavesWills("a")
		end(w)
		s := w.connect(v, "s").send(sub(1, "will"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		time.Sleep(willGrace - 1)
		s.wants()
		time.Sleep(time.Nanosecond)
		s.wants(`publish will "gone" q1 id1`)
		w.leavesWills()
		end(w)
		time.Sleep(time.Hour)
		if w.gone() != 1 {
			w.t.Errorf("%d wills", w.gone())
		}
		w.connect(v, "s").send(sub(1, "will")).wants("connack 0x00", "suback 1 [0x01]", `publish will "gone" q1 id1 retain`)
	})
}

// A client that is back before its will is sent finds it sent when it was due, before anything it says itself, and not
// when its delay has not passed [MQTT-3.1.3-9]. A clean start ends the session, and the delay with it.
func TestAClientIsBackBeforeItsWill(t *testing.T) {
	for _, tt := range []struct {
		delay uint32
		after time.Duration
		clean bool
		want  int
	}{
		{0, time.Second, false, 1},
		{10, 9 * time.Second, false, 0},
		{10, 9 * time.Second, true, 1},
		{10, 11 * time.Second, false, 1},
		{100, willGrace + time.Second, false, 0},
		{100, 101 * time.Second, false, 1},
	} {
		for name, end := range ends {
			t.Run(fmt.Sprint(tt, name), func(t *testing.T) {
				story(t, func(w *world) {
					w.connect(packet.V5, "a", keep, withWill(tt.delay)).send(sub(1, "none")).wants("connack 0x00", "suback 1 [0x01]")
					end(w)
					time.Sleep(tt.after)
					present := "connack 0x00 present"
					if tt.clean {
						present = "connack 0x00"
					}
					a := w.connect(packet.V5, "a", keep, func(c *packet.Connect) { c.CleanStart = tt.clean }).send(pub("will", "here", 1, 1))
					a.wants(present, "puback 1 0x00")
					want := strings.TrimSpace(strings.Repeat("gone ", tt.want) + "here")
					w.leavesWills()
					w.crashNow()
					time.Sleep(time.Hour)
					if got := w.stored(); got != want {
						t.Errorf("the log has %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// A will that waited for its delay waits on after a restart: from there, which takes no clock, and no longer than its
// session.
func TestADelayedWillOutlivesTheServer(t *testing.T) {
	for _, end := range ends {
		story(t, func(w *world) {
			expires := func(c *packet.Connect) {
				keep(c)
				c.Properties.SessionExpiry = 150
			}
			for _, a := range []*peer{w.connect(packet.V5, "a", keep, withWill(100)), w.connect(packet.V5, "b", expires, withWill(1000))} {
				a.wants("connack 0x00")
				a.conn.Close()
			}
			time.Sleep(99 * time.Second)
			w.leavesWills("a", "b")
			end(w)
			time.Sleep(51 * time.Second) // the end of b's session
			synctest.Wait()
			if w.gone() != 1 {
				t.Errorf("%d wills of b", w.gone())
			}
			w.leavesWills("a")
			time.Sleep(49 * time.Second)
			synctest.Wait()
			if w.gone() != 2 {
				t.Errorf("%d wills", w.gone())
			}
			w.leavesWills()
		})
	}
}

// CONNACK says that the will is the server's.
func TestConnackWaitsForTheWill(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.connect(v, "s", keep).send(sub(1, "none")).wants("connack 0x00", "suback 1 [0x01]")
		w.log.Hold()
		a := w.connect(v, "a", withWill(0))
		a.wants()
		w.log.Release()
		a.wants("connack 0x00")
		w.leavesWills("a")
		w.log.Fail(mqtt.ErrFull)
		b := w.connect(v, "b", withWill(0))
		if v == packet.V5 {
			b.wants("connack 0x97", "closed")
		} else {
			b.wants("connack 0x03", "closed")
		}
		w.log.Fail(nil)
		time.Sleep(time.Hour)
		w.leavesWills("a")
		if w.gone() > 0 {
			w.t.Error("a will of a client that was refused")
		}
	})
}

// The same will again costs no write; another one does, and so does none. With each, the log has what was told last.
func TestTheSameWillIsWrittenOnce(t *testing.T) {
	story(t, func(w *world) {
		other := func(c *packet.Connect) {
			withWill(50)(c)
			c.Will.Payload = []byte("other")
		}
		none := func(*packet.Connect) {}
		for i, step := range []struct {
			change  func(*packet.Connect)
			records int
			left    []string
		}{
			{withWill(100), 1, []string{"a"}},
			{withWill(100), 1, []string{"a"}},
			{withWill(100), 1, []string{"a"}},
			{other, 2, []string{"a"}},
			{other, 2, []string{"a"}},
			{none, 3, nil},
			{none, 3, nil},
			{other, 4, []string{"a"}},
		} {
			a := w.connect(packet.V5, "a", keep, step.change)
			synctest.Wait()
			if n := w.willRecords(); n != step.records {
				t.Fatalf("step %d: %d records, want %d", i, n, step.records)
			}
			w.leavesWills(step.left...)
			if i%2 == 0 { // else it is taken over
				a.conn.Close()
				synctest.Wait()
			}
			time.Sleep(time.Second)
		}
		w.crashNow()
		time.Sleep(time.Hour)
		if got := w.stored(); got != "other" {
			t.Errorf("the log has %q", got)
		}
	})
}

// A disk that is full delays a will. A client that is back by then says itself how it is.
func TestAWillTheDiskHasNoRoomForIsSentLater(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		s := w.connect(v, "s").send(sub(1, "will"))
		s.wants("connack 0x00", "suback 1 [0x01]")
		a, b := w.connect(v, "a", withWill(0)), w.connect(v, "b", withWill(0))
		a.wants("connack 0x00")
		b.wants("connack 0x00")
		w.log.Fail(fmt.Errorf("disk at its reserve: %w", mqtt.ErrFull))
		a.conn.Close()
		b.conn.Close()
		time.Sleep(time.Minute)
		w.leavesWills("a", "b")
		w.connect(v, "b").wants("connack 0x00")
		w.log.Fail(nil)
		time.Sleep(time.Minute)
		s.wants(`publish will "gone" q1 id1`)
		w.leavesWills()
		// What can never be published ends.
		c := w.connect(v, "c", func(c *packet.Connect) { c.Will = &packet.Will{Topic: "$nowhere", Payload: []byte("gone")} })
		c.wants("connack 0x00")
		w.leavesWills("c")
		c.conn.Close()
		w.leavesWills()
	})
}

// What a client may do is asked when its will is sent, by who left it: over a restart too. Nobody else ends it.
func TestAWillIsItsOwnersAfterARestart(t *testing.T) {
	eachEnd(t, func(w *world, v packet.Version, end func(*world)) {
		e := w.permitted(allow("ann", auth.Write, "mqtt:w/%c"), allow("bob", auth.Read, "mqtt"))
		will := func(delay uint32) func(*packet.Connect) {
			return func(c *packet.Connect) {
				withWill(delay)(c)
				c.Will.Topic = "w/" + c.ClientID
				if v == packet.V311 {
					c.Will.Properties = nil
				}
			}
		}
		w.connect(v, "x", keep, as("ann", "a"), will(1000)).wants("connack 0x00") // a session without a record ends with the server
		w.connect(v, "y", as("ann", "a"), will(0)).wants("connack 0x00")
		end(w)
		if v == packet.V5 && w.gone() > 0 {
			w.t.Error("sent at once")
		}
		w.connect(v, "z", as("bob", "b")).wants("connack 0x00")
		e.set(allow("bob", auth.Read, "mqtt"))
		time.Sleep(2 * time.Hour)
		w.leavesWills()
		if w.gone() > 0 {
			w.t.Error("published without permission")
		}
	})
}

// Properties travel over a restart [MQTT-3.1.3-10], and a will with them is published as any message.
func TestAWillKeepsItsProperties(t *testing.T) {
	story(t, func(w *world) {
		w.connect(packet.V5, "a", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "w", QoS: 2, Retain: true, Properties: &packet.Properties{
				Present: packet.Of(packet.PayloadFormat, packet.MessageExpiry, packet.ContentType, packet.ResponseTopic,
					packet.CorrelationData, packet.UserProperty),
				PayloadFormat: 1, MessageExpiry: 100, ContentType: "t", ResponseTopic: "r", CorrelationData: []byte{0, 1},
				User: []payload.Pair{{Key: "mqtt.will.delay", Value: "1000"}, {Key: "k", Value: "2"}, {Key: "k", Value: "1"}},
			}}
		}).wants("connack 0x00")
		w.crashNow()
		s := w.connect(packet.V5, "s").send(sub2(1, "w"))
		s.wants("connack 0x00", "suback 1 [0x02]")
		time.Sleep(willGrace)
		got := s.takePackets()
		if len(got) != 1 {
			t.Fatalf("%d packets", len(got))
		}
		p := got[0].(*packet.Publish)
		list := p.Properties
		if p.QoS != 2 || len(p.Payload) != 0 || list.PayloadFormat != 1 || list.MessageExpiry != 100 || list.ContentType != "t" ||
			list.ResponseTopic != "r" || string(list.CorrelationData) != "\x00\x01" ||
			fmt.Sprint(list.User) != "[{mqtt.will.delay 1000} {k 2} {k 1}]" {
			t.Errorf("got %+v, %+v", p, list)
		}
	})
}

// What the log has is kept whatever the limit says now, and given back when it is sent. Of a thousand that are due at once
// a few are on their way.
func TestWillsOfAStartAreBounded(t *testing.T) {
	story(t, func(w *world) {
		const n = 64
		for i := range n {
			w.connect(packet.V311, fmt.Sprint("c", i), func(c *packet.Connect) {
				c.Will = &packet.Will{Topic: "w", Payload: make([]byte, 20<<10), QoS: 1}
			}).wants("connack 0x00")
		}
		state := share(t, 100<<10)
		w.cfg.State = state
		w.crashNow()
		if used := state.Used(); used < n*20<<10 || used > n*21<<10 {
			t.Errorf("%d bytes used", used)
		}
		w.log.Produce("mqtt", 0, record.Record{Value: []byte("x")}) // the topic is there
		w.log.Hold()
		time.Sleep(willGrace + time.Second)
		synctest.Wait()
		if held := w.log.Held(); held < 2 || held > 13 {
			t.Errorf("%d on their way", held)
		}
		w.log.Release()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := len(w.log.Records("mqtt")) - 1; got != n {
			t.Errorf("%d wills", got)
		}
		if state.Used() != 0 {
			t.Errorf("%d bytes are not given back", state.Used())
		}
	})
}

// A client that is back with its will needs no room for two of them.
func TestAWillTakesTheRoomOfTheLast(t *testing.T) {
	story(t, func(w *world) {
		state := share(t, 30<<10)
		w.cfg.State = state
		large := func(c *packet.Connect) {
			withWill(100)(c)
			c.Will.Payload = make([]byte, 20<<10)
		}
		for i, want := range []string{"connack 0x00", "connack 0x00 present"} {
			a := w.connect(packet.V5, "a", keep, large)
			a.wants(want)
			if used := state.Used(); used > 25<<10 {
				t.Errorf("%d: %d bytes used", i, used)
			}
			a.conn.Close()
			synctest.Wait()
		}
		w.connect(packet.V5, "b", large).wants("connack 0x97", "closed")
	})
}

// willStory has clients leave wills in every way and crashes after n commits; 0: at the end. It returns the commits there
// were at each step and how often each client's will was published in the end.
func willStory(w *world, v packet.Version, n int) (steps []int, came map[string]int) {
	step := func() {
		synctest.Wait()
		steps = append(steps, w.log.Commits())
	}
	leave := func(id string, retain bool, change ...func(*packet.Connect)) *peer {
		p := w.connect(v, id, append(change, func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "will", Payload: []byte(id), QoS: 1, Retain: retain}
		})...)
		step()
		return p
	}
	w.connect(v, "p").send(pub("x", "x", 1, 1)).wants("connack 0x00", "puback 1 0x00") // the topic is there
	step()                                                                             // 0
	leave("there", false)                                                              // 1: when the server ends
	cut := leave("cut", true)                                                          // 2
	cut.conn.Close()
	step()                      // 3
	left := leave("left", true) // 4
	left.send(&packet.Disconnect{})
	step()                      // 5
	leave("taken", false, keep) // 6
	leave("taken", false, keep) // 7
	if n > 0 {
		w.crash(n)
		time.Sleep(time.Hour)
		synctest.Wait()
		w.crashNow() // nothing is left of them
		time.Sleep(time.Hour)
		synctest.Wait()
	}
	came = make(map[string]int)
	for _, id := range []string{"there", "cut", "left", "taken"} {
		came[id] = w.count(id)
	}
	return steps, came
}

// TestACrashAfterAnyCommitSendsAWillOnce: wherever the server crashes, a will comes once when its connection was
// acknowledged, none comes twice, and none that was taken back comes at all.
func TestACrashAfterAnyCommitSendsAWillOnce(t *testing.T) {
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		var at []int
		story(t, func(w *world) { at, _ = willStory(w, v, 0) })
		if at[0] == at[1] || at[6] == at[7] {
			t.Fatalf("steps are no commits: %v", at)
		}
		for n := at[0]; n <= at[7]; n++ {
			story(t, func(w *world) {
				_, came := willStory(w, v, n)
				since := func(step int) int { // 1 from the last commit of that step on
					if n >= at[step] {
						return 1
					}
					return 0
				}
				for id, want := range map[string]int{
					"there": since(1), "cut": since(2), "left": since(4) - since(5), "taken": since(6) + since(7),
				} {
					if came[id] != want {
						t.Errorf("v%d, %d commits, steps %v: %s came %d times, want %d", v, n, at, id, came[id], want)
					}
				}
			})
		}
	}
}

// TestEveryRecordOfAWillIsNeeded is the negative control.
func TestEveryRecordOfAWillIsNeeded(t *testing.T) {
	of := func(ends bool) func(string, record.Record) bool {
		return func(_ string, r record.Record) bool {
			return strings.HasSuffix(string(r.Key), "\x00w") && (r.Value == nil) == ends
		}
	}
	for _, ends := range []bool{false, true} {
		seldom, often := 0, 0
		story(t, func(w *world) {
			w.log.Lose(of(ends))
			at, _ := willStory(w, packet.V5, 0)
			w.log.Lose(nil)
			w.crash(at[7])
			time.Sleep(time.Hour)
			synctest.Wait()
			for id, want := range map[string]int{"there": 1, "cut": 1, "left": 0, "taken": 2} {
				switch got := w.count(id); {
				case got < want:
					seldom++
				case got > want:
					often++
				}
			}
		})
		if !ends && (seldom != 2 || often != 0) || ends && (seldom != 0 || often != 2) {
			t.Errorf("a log without records of wills (their ends: %v) sends %d too seldom and %d too often", ends, seldom, often)
		}
	}
}
