package mqtt_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/broker/record"
)

func rec(value string) record.Record { return record.Record{Value: []byte(value)} }

// stuck connects a durable client whose answers nobody reads until read is called.
func (w *world) stuck(v packet.Version, id string) *peer {
	c := &packet.Connect{Version: v, ClientID: id}
	keep(c)
	return w.pipe(v).send(c)
}

func TestNewMessagesNeverOvertakeRedelivery(t *testing.T) {
	for name, produce := range map[string]func(w *world){
		"into a partition it lags in":     func(w *world) { w.log.Produce("mqtt", 0, record.Record{Key: []byte("x"), Value: []byte("new")}) },
		"into one made since it has come": func(w *world) { w.log.Produce("x", 0, rec("new")) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(w *world, v packet.Version) {
				w.cfg.MaxOutput, w.cfg.MaxInflight = 1024, 8
				body := strings.Repeat("b", 600)
				a := w.connect(v, "a", keep).send(sub(1, "#"))
				a.wants("connack 0x00", "suback 1 [0x01]")
				p := w.connect(v, "p")
				var sent []string
				for i := range 6 {
					p.send(pub("x", body, 1, uint16(i+1)))
					sent = append(sent, fmt.Sprintf("publish x %q q1 id%d", body, i+1))
				}
				a.wants(sent...)
				a.send(&packet.Disconnect{})
				a.wants("closed")

				a = w.stuck(v, "a")
				synctest.Wait() // with a part of them on its way again and no room for the rest
				produce(w)
				a.read()
				for i := range sent {
					sent[i] += " dup"
				}
				a.wants(append(append([]string{"connack 0x00 present"}, sent...), `publish x "new" q1 id7`)...)
			})
		})
	}
}

func TestWhatComesDuringARedeliveryThatFindsNothingArrives(t *testing.T) {
	story(t, func(w *world) {
		v := packet.V5
		a := w.connect(v, "a", keep).send(sub(1, "#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x", "1", 1, 1), pub("x", "2", 1, 2))
		a.wants(`publish x "1" q1 id1`, `publish x "2" q1 id2`)
		a.send(&packet.Disconnect{})
		a.wants("closed")
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00")

		w.log.FailReads(errors.New("the disk is slow to answer"))
		a = w.connect(v, "a", keep)
		a.wants("connack 0x00 present")
		w.log.Produce("kafka", 0, rec("other")) // must wait for the redelivery
		a.wants()
		w.log.Trim("mqtt", 0, 2) // and the redelivery finds its messages gone
		w.log.FailReads(nil)
		time.Sleep(2 * time.Second)
		a.wants(`publish kafka "other" q1 id3`)
	})
}

func TestAReadThatFailsLosesNothing(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x", "1", 1, 1), pub("x", "2", 1, 2))
		a.wants(`publish x "1" q1 id1`, `publish x "2" q1 id2`)
		a.send(&packet.Disconnect{})
		a.wants("closed")
		p.send(pub("x", "3", 1, 3))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00")

		w.log.FailReads(errors.New("input/output error"))
		a = w.connect(v, "a", keep)
		time.Sleep(5 * time.Second)
		a.wants("connack 0x00 present")
		w.log.FailReads(nil)
		time.Sleep(2 * time.Second)
		a.wants(`publish x "1" q1 id1 dup`, `publish x "2" q1 id2 dup`, `publish x "3" q1 id3`)
	})
}

// A client that came in without its session would never hear what the session was promised.
func TestNobodyIsLetInWithoutTheirSessions(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		refused := map[packet.Version]string{packet.V311: "connack 0x03", packet.V5: "connack 0x88"}[v]
		a := w.connect(v, "a", keep).send(sub(1, "x"), &packet.Disconnect{})
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		w.connect(v, "p").send(pub("x", "1", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		for _, faults := range []struct {
			begin, end func()
			dup        string
		}{
			{func() { w.log.SetOffline("kafka-0") }, func() { w.log.SetOffline() }, ""},
			{func() { w.log.FailReads(errors.New("input/output error")) }, func() { w.log.FailReads(nil) }, " dup"},
		} {
			faults.begin()
			w.restart()
			w.connect(v, "a", keep).wants(refused, "closed")
			w.connect(v, "q").wants(refused, "closed")
			faults.end()
			a := w.connect(v, "a", keep)
			a.wants("connack 0x00 present", `publish x "1" q1 id1`+faults.dup)
			a.conn.Close() // unacknowledged: it comes again
			synctest.Wait()
		}
	})
}

func TestWhatCannotBeReadHoldsNothingUp(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a").send(sub(1, "x"))
		b := w.connect(v, "b", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		b.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x", "1", 1, 1))
		a.wants(`publish x "1" q1 id1`)
		b.wants(`publish x "1" q1 id1`)
		b.send(ack(1), &packet.Disconnect{})
		b.wants("closed")
		w.log.Garble("mqtt", 0)
		p.send(pub("x", "2", 1, 2))
		a.wants(`publish x "2" q1 id2`)
		w.log.Damage("mqtt", 0, 3)
		synctest.Wait() // the reader must come to rest
		p.send(pub("x", "3", 1, 3))
		a.wants(`publish x "3" q1 id3`)
		w.connect(v, "b", keep).wants("connack 0x00 present", `publish x "2" q1 id2`, `publish x "3" q1 id3`)
	})
}

func TestACleanStartIsFinalHoweverManyWantTheSession(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "id", keep).send(sub(1, "x"), &packet.Disconnect{})
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		w.log.Hold()
		clean := w.connect(v, "id") // waits until the old session is gone from the log
		clean.wants()
		other := w.connect(v, "id", keep) // finds none, and makes its own meanwhile
		other.wants("connack 0x00")
		other.send(sub(1, "y"))
		synctest.Wait()
		w.log.Release()
		clean.wants("connack 0x00")
		w.restart()
		w.connect(v, "id", keep).wants("connack 0x00")
	})
}

func TestADeletedTopicLeavesNothingBehind(t *testing.T) {
	story(t, func(w *world) {
		v := packet.V5
		a := w.connect(v, "a", keep).send(sub(1, "#"), &packet.Disconnect{})
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		w.connect(v, "p").send(pub("x", "1", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		w.log.Produce("kafka", 0, rec("lost with its topic"))
		synctest.Wait()
		w.log.Delete("kafka")
		time.Sleep(2 * time.Minute) // the sweep
		if n := w.s.Streams(); n != 1 {
			t.Errorf("%d partitions are read, want 1", n)
		}
		w.connect(v, "a", keep).wants("connack 0x00 present", `publish x "1" q1 id1`)
	})
}
