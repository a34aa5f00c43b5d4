package mqtt_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// figures are the values that have come under $SYS, by the rest of their topic.
func (p *peer) figures(retained bool) map[string]string {
	p.t.Helper()
	all := map[string]string{}
	p.each(func(m *packet.Publish) {
		name, ok := strings.CutPrefix(m.Topic, "$SYS/broker/")
		if !ok || m.QoS != 0 || m.Retain != retained || all[name] != "" {
			p.t.Errorf("got %s, want it once, under $SYS, RETAIN %v", show(m), retained)
		}
		all[name] = string(m.Payload)
	})
	return all
}

func TestSysByMosquittosNames(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.Version = "1.2"
		w.server()
		time.Sleep(3 * time.Second)
		keeper := w.connect(v, "keeper", keep).send(sub(1, "x", "y"), &packet.Disconnect{})
		keeper.wants("connack 0x00", "suback 1 [0x01 0x01]", "closed")
		r := pub("r", "four", 1, 1)
		r.Retain = true
		w.connect(v, "p").send(r).wants("connack 0x00", "puback 1 0x00")
		written := len(w.log.Records("__mqtt_sessions")) + len(w.log.Records("mqtt")) + len(w.log.Records("__mqtt_retained"))
		a := w.connect(v, "a").send(sub(1, "$SYS/#"))
		first := a.figures(true)
		for name, want := range map[string]string{
			"version": "millrace version 1.2", "uptime": "3 seconds", "clients/total": "3", "clients/connected": "2", "clients/disconnected": "1",
			"clients/maximum": "2", "messages/received": "7", "messages/sent": "6", "publish/messages/received": "1", "publish/messages/sent": "0",
			"publish/messages/dropped": "0", "publish/bytes/received": "4", "publish/bytes/sent": "0", "subscriptions/count": "3", "shared_subscriptions/count": "0", "retained messages/count": "1",
		} {
			if first[name] != want {
				t.Errorf("%s is %q, want %q", name, first[name], want)
			}
		}
		for _, name := range []string{"bytes/received", "bytes/sent", "heap/current", "heap/maximum"} {
			if first[name] == "" || first[name] == "0" {
				t.Errorf("%s is %q", name, first[name])
			}
		}
		if len(first) != 20 {
			t.Errorf("%d figures", len(first))
		}
		// What came meanwhile: nothing before the interval is over, then what is new.
		w.connect(v, "q").wants("connack 0x00")
		time.Sleep(10*time.Second - 1)
		if early := a.figures(false); len(early) != 0 {
			t.Errorf("early: %v", early)
		}
		time.Sleep(time.Nanosecond)
		next := a.figures(false)
		if next["uptime"] != "13 seconds" || next["clients/connected"] != "3" || next["publish/messages/sent"] != "20" || next["version"] != "" || next["retained messages/count"] != "" {
			t.Errorf("a tick brought %v", next)
		}
		// A later subscriber gets the retained values, which are those of the tick, and only those it asked for.
		time.Sleep(5 * time.Second)
		b := w.connect(v, "b").send(sub(1, "$SYS/broker/uptime", "$SYS/+/clients/connected"))
		if got := b.figures(true); len(got) != 2 || got["uptime"] != "13 seconds" || got["clients/connected"] != "3" {
			t.Errorf("later: %v", got)
		}
		if got := a.figures(false); len(got) != 0 {
			t.Errorf("who was there got %v", got)
		}
		// None of it was written.
		if now := len(w.log.Records("__mqtt_sessions")) + len(w.log.Records("mqtt")) + len(w.log.Records("__mqtt_retained")); now != written {
			t.Errorf("%d records were written", now-written)
		}
	})
}

func TestSysIsNobodysTopicAndNotForWildcards(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub(1, "#", "+/broker/uptime", "+/#"))
		a.wants("connack 0x00", "suback 1 [0x01 0x01 0x01]")
		b := w.connect(v, "b").send(sub(1, "$SYS/broker/uptime"))
		b.wants("connack 0x00", "suback 1 [0x01]", `publish $SYS/broker/uptime "0 seconds" q0 retain`)
		p := w.connect(v, "p").send(pub("$SYS/broker/uptime", "mine", 1, 1))
		if v == packet.V5 {
			p.wants("connack 0x00", "puback 1 0x90")
		} else {
			p.wants("connack 0x00", "closed")
		}
		time.Sleep(20 * time.Second)
		a.wants()
		b.wants(`publish $SYS/broker/uptime "10 seconds" q0`, `publish $SYS/broker/uptime "20 seconds" q0`)
		if names := w.log.Names(); len(names) != 0 {
			t.Errorf("topics %v were made", names)
		}
	})
}

func TestSysOptionsOfASubscription(t *testing.T) {
	story(t, func(w *world) {
		with := func(id uint16, sid uint32, filter string, handling byte, asIs bool) *packet.Subscribe {
			return &packet.Subscribe{
				ID: id, Filters: []packet.Subscription{{Filter: filter, RetainHandling: handling, RetainAsPublished: asIs}},
				Properties: &packet.Properties{Present: packet.Of(packet.SubscriptionID), SubscriptionIDs: []uint32{sid}},
			}
		}
		a := w.connect(packet.V5, "a").send(with(1, 7, "$SYS/broker/uptime", 2, false))
		a.wants("connack 0x00", "suback 1 [0x00]")
		a.send(with(2, 7, "$SYS/broker/uptime", 1, false))
		a.wants("suback 2 [0x00]") // not new
		a.send(with(3, 8, "$SYS/broker/+", 1, true))
		a.wants("suback 3 [0x00]", `publish $SYS/broker/version "millrace version unknown" q0 retain subs[8]`, `publish $SYS/broker/uptime "0 seconds" q0 retain subs[8]`)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		got := a.next() // one copy for both, in whatever order
		if got == nil || len(got.Properties.SubscriptionIDs) != 2 || !got.Retain || string(got.Payload) != "10 seconds" {
			t.Errorf("got %v", got)
		}
		a.wants()
		a.send(&packet.Unsubscribe{ID: 4, Filters: []string{"$SYS/broker/+"}})
		a.wants("unsuback 4 [0x00]")
		time.Sleep(10 * time.Second)
		a.wants(`publish $SYS/broker/uptime "20 seconds" q0 subs[7]`)
	})
}

// Nothing is computed and no timer runs while nobody listens, also after somebody did.
func TestSysCostsNothingWhileNobodyListens(t *testing.T) {
	story(t, func(w *world) {
		timers := 0
		w.cfg.CheckpointInterval = 1000 * time.Hour
		w.cfg.After = func(d time.Duration, f func()) func() bool {
			if d <= time.Minute {
				timers++
			}
			return time.AfterFunc(d, f).Stop
		}
		a := w.connect(packet.V5, "a").send(sub(1, "#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		time.Sleep(time.Hour)
		if timers != 0 {
			t.Errorf("%d timers while nobody listened", timers)
		}
		b := w.connect(packet.V5, "b").send(sub(1, "$SYS/broker/uptime"))
		b.wants("connack 0x00", "suback 1 [0x01]", `publish $SYS/broker/uptime "3600 seconds" q0 retain`)
		b.send(&packet.Disconnect{})
		b.wants("closed")
		time.Sleep(time.Hour)
		if timers != 1 {
			t.Errorf("%d timers, want the one that found nobody", timers)
		}
		b = w.connect(packet.V5, "b").send(sub(1, "$SYS/broker/uptime"))
		b.wants("connack 0x00", "suback 1 [0x01]", `publish $SYS/broker/uptime "7200 seconds" q0 retain`)
		time.Sleep(10 * time.Second)
		b.wants(`publish $SYS/broker/uptime "7210 seconds" q0`)
	})
}

func TestSysOff(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.SysInterval = -1
		a := w.connect(packet.V5, "a").send(sub(1, "$SYS/#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		time.Sleep(time.Hour)
		a.wants()
	})
}

// A durable session's subscription goes on with its next connection; and one that did not read gets what it missed.
func TestSysAcrossConnectionsAndSlowReaders(t *testing.T) {
	story(t, func(w *world) {
		w.cfg.MaxOutput = 1024
		a := w.connect(packet.V5, "a", keep).send(sub(1, "$SYS/broker/clients/+"), &packet.Disconnect{})
		synctest.Wait()
		a.each(func(*packet.Publish) {})
		time.Sleep(time.Minute)
		w.restart()
		a = w.connect(packet.V5, "a", keep)
		a.wants("connack 0x00 present")
		time.Sleep(10 * time.Second)
		if got := a.figures(false); got["clients/connected"] != "1" || len(got) != 4 {
			t.Errorf("after the restart: %v", got)
		}
		slow := w.pipe(packet.V5)
		slow.sendSlowly(&packet.Connect{Version: packet.V5, ClientID: "slow", CleanStart: true}, sub(1, "$SYS/#", "fill"))
		synctest.Wait()
		// It reads nothing, so that the tick with clients/connected 3 finds no room.
		w.connect(packet.V5, "p").send(pub("fill", strings.Repeat("x", 2000), 0, 0))
		time.Sleep(11 * time.Second)
		got := map[string]string{}
		slow.read()
		time.Sleep(10 * time.Second)
		slow.each(func(m *packet.Publish) { got[m.Topic] = string(m.Payload) })
		if got["$SYS/broker/clients/connected"] != "3" || got["$SYS/broker/version"] == "" {
			t.Errorf("the slow reader has %v", got)
		}
	})
}

func TestTrafficIsCounted(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V311, "a").send(sub(1, "t"), pub("t", "12345", 1, 2), pub("t", "12345", 0, 0))
		a.wants("connack 0x00", "suback 1 [0x01]", "puback 2 0x00", `publish t "12345" q1 id1`, `publish t "12345" q0`)
		w.log.Fail(mqtt.ErrFull)
		a.send(pub("t", "1", 0, 0))
		synctest.Wait()
		// CONNECT 15, SUBSCRIBE 8, PUBLISH 12, 10 and 6; CONNACK 4, SUBACK 5, PUBACK 4, PUBLISH 12 and 10.
		want := mqtt.Traffic{
			Received: 5, BytesReceived: 51, Sent: 5, BytesSent: 35, PublishReceived: [3]int64{2, 1}, PublishBytesReceived: 11,
			PublishSent: [3]int64{1, 1}, PublishBytesSent: 10, PublishDropped: 1,
		}
		if got := w.s.Traffic(); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		w.log.Fail(nil)
		b := w.connect(packet.V5, "b").send(sub(1, "$share/g/t", "u"), &packet.Publish{Topic: "r", Retain: true, Payload: []byte("1")})
		b.wants("connack 0x00", "suback 1 [0x01 0x01]")
		synctest.Wait()
		if got, want := w.s.Census(), (mqtt.Census{Sessions: 2, Connected: 2, Subscriptions: 2, Shared: 1, Groups: 1, Retained: 1, Inflight: 1}); got != want {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})
}
