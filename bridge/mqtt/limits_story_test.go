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
		w.cfg.Reading = memory
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
