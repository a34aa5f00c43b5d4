package mqtt_test

import (
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
)

// Where the readers of the log and a connection that comes or goes meet. random_story_test.go finds such places by
// chance; here each is held open.

func TestAConnectionThatEndsUnderARedeliveryLosesNothing(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		var before func()
		w.cfg.Now = func() time.Time {
			if fn := before; fn != nil {
				before = nil
				fn()
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
		ended := make(chan error)
		w.log.AfterRead(func(string, int64) {
			w.log.AfterRead(nil)
			synctest.Wait() // so that it is the redelivery that asks
			before = func() {
				go func() { ended <- w.s.Close() }()
				for range a.got { // until the connection is closed
				}
			}
		})
		a = w.connect(v, "a", keep)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		w.s = nil
		w.connect(v, "a", keep).wants("connack 0x00 present", `publish x "one" q1 id1 dup`)
	})
}
