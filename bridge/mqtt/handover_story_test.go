package mqtt_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// Where the readers of the log and a connection that comes or goes meet. random_story_test.go finds such places by
// chance; here each is held open.

func TestAConnectionThatEndsUnderARedeliveryLosesNothing(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		var before atomic.Pointer[func()]
		w.cfg.Now = func() time.Time {
			if fn := before.Swap(nil); fn != nil {
				(*fn)()
			}
			return time.Now()
		}
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(v, "p").send(pub("x", "one", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish x "one" q1 id1`)
		a.conn.Close()
		synctest.Wait()

		// The last time somebody asks for between the look for room and the bytes.
		ended, next := make(chan error), make(chan *peer, 1)
		w.log.AfterRead(func(string, int64) {
			w.log.AfterRead(nil)
			synctest.Wait() // so that it is the redelivery that asks
			fn := func() {
				go func() { ended <- w.s.Close() }()
				for range (<-next).got { // until the connection is closed
				}
			}
			before.Store(&fn)
		})
		next <- w.connect(v, "a", keep)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		w.s = nil
		w.connect(v, "a", keep).wants("connack 0x00 present", `publish x "one" q1 id1 dup`)
	})
}

func TestAScanThatMeetsATakeoverKeepsThePlace(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x", "one", 1, 1))
		a.wants(`publish x "one" q1 id1`)
		a.send(ack(1), &packet.Disconnect{})
		a.wants("closed")
		p.wants("connack 0x00", "puback 1 0x00")
		w.log.Produce("mqtt", 0, rec("other")) // which the session has to pass, and only reading it tells
		synctest.Wait()                        // nobody is there for whom the tail reader would read it: the first read is the scan's

		read, hand := make(chan bool), make(chan bool)
		w.log.AfterRead(func(string, int64) {
			w.log.AfterRead(nil)
			read <- true
			<-hand
		})
		w.connect(v, "a", keep)
		<-read
		wait, release := mqtt.HoldIndex(w.s)
		a = w.connect(v, "a", keep)
		wait() // the older connection's place is fixed, and it is still there
		hand <- true
		mqtt.WaitScanned(w.s, "mqtt", 0)
		release()
		a.wants("connack 0x00 present") // and not all of the partition again
		p.send(pub("x", "two", 1, 3))
		a.wants(`publish x "two" q1 id2`)
	})
}

// meter is a budget without bounds that tells of the next release.
type meter struct {
	mqtt.Budget
	released func()
}

func (m *meter) Release(n int64) {
	m.Budget.Release(n)
	if fn := m.released; fn != nil {
		m.released = nil
		fn()
	}
}

func TestAPartitionMadeWhileASessionComesBackIsItsFromTheStart(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		state := &meter{Budget: share(t, 1<<20)}
		w.cfg.State = state
		a := w.connect(v, "a", keep).send(sub(1, "#"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		w.connect(v, "p").send(pub("x", "one", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish x "one" q1 id1`)
		a.send(ack(1), &packet.Disconnect{})
		a.wants("closed")

		made := make(chan bool)
		state.released = func() { // the cursor's memory, in the middle of connecting
			w.log.Produce("kafka", 0, rec("two"))
			synctest.Wait() // the tail reader is past it
			made <- true
		}
		a = w.connect(v, "a", keep)
		<-made
		a.wants("connack 0x00 present", `publish kafka "two" q1 id2`)
	})
}

// [MQTT-3.2.0-1], whatever the readers of the log are doing meanwhile.
func TestNothingIsSentBeforeConnack(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		w.cfg.Scans = 1
		p := w.connect(v, "p")
		p.wants("connack 0x00")
		for i, id := range []string{"first", "a", "last"} { // each is owed the message at offset i
			c := w.connect(v, id, keep).send(sub(1, id))
			c.wants("connack 0x00", "suback 1 [0x01]")
			p.send(pub(id, "one", 1, uint16(i+1)))
			c.wants(`publish ` + id + ` "one" q1 id1`)
			c.conn.Close()
			synctest.Wait()
		}

		read, hand := make(chan int64), make(chan bool)
		w.log.AfterRead(func(_ string, offset int64) {
			if offset != 1 {
				read <- offset
				<-hand
			}
		})
		w.connect(v, "first", keep)
		<-read // the scan is with the first
		gone := w.connect(v, "a", keep)
		gone.wants("connack 0x00 present") // the second waits for the scan
		w.connect(v, "last", keep).wants("connack 0x00 present")
		gone.conn.Close()
		synctest.Wait()
		wait, release := mqtt.HoldIndex(w.s)
		a := w.connect(v, "a", keep)
		wait() // it has a connection again, without CONNACK
		hand <- true
		if offset := <-read; offset != 2 { // the scan is done with it
			t.Errorf("read offset %d, want the last one's", offset)
		}
		w.log.AfterRead(nil)
		release()
		hand <- true
		a.wants("connack 0x00 present", `publish a "one" q1 id1 dup`)
	})
}

func TestWhatComesWhileAScanFindsOnlyDamageArrives(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "x"))
		a.wants("connack 0x00", "suback 1 [0x01]")
		p := w.connect(v, "p").send(pub("x", "one", 1, 1))
		a.wants(`publish x "one" q1 id1`)
		a.send(ack(1), &packet.Disconnect{})
		a.wants("closed")
		w.log.Damage("mqtt", 0, 3)
		synctest.Wait() // the tail reader is past that, so that the next to read is the scan

		come := make(chan bool)
		w.log.AfterRead(func(string, int64) {
			w.log.AfterRead(nil)
			p.send(pub("x", "two", 1, 2))
			synctest.Wait() // the tail reader is past it
			come <- true
		})
		a = w.connect(v, "a", keep)
		<-come
		a.wants("connack 0x00 present", `publish x "two" q1 id2`)
	})
}
