package mqtt_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/mqtt/packet/packettest"
)

// FuzzSession is TestNothingIsLostUnderAnyOrderOfEvents with events the fuzzer chooses, a byte for each choice. Goroutines
// interleave as they like, so that the fuzzer takes the same input for a new one: -fuzzminimizetime 1x.
func FuzzSession(f *testing.F) {
	for seed := range uint64(8) {
		events, r := make([]byte, 400), rand.NewPCG(seed, 7)
		for i := 0; i < len(events); i += 8 {
			binary.BigEndian.PutUint64(events[i:], r.Uint64())
		}
		f.Add(events)
	}
	f.Fuzz(func(t *testing.T, events []byte) {
		story(t, func(w *world) {
			randomStory(w, rand.New(&choices{events, rand.NewPCG(1, 7)}), fmt.Sprintf("events %x", events))
		})
	})
}

// choices are the fuzzer's, and when it has none any more a seed's.
type choices struct {
	p    []byte
	rest rand.Source
}

func (c *choices) Uint64() uint64 {
	if len(c.p) == 0 {
		return c.rest.Uint64()
	}
	b := uint64(c.p[0])
	c.p = c.p[1:]
	return b * 0x0101010101010101 // in whichever bits the choice is made of
}

// FuzzPackets sends packets of the vector tables, in any order, on two connections that share their topics and a session
// that goes on. Whatever they are, what the server says decodes, a third connection is served, and the server closes.
// An input is pairs of bytes: the connection, with a bit for a minute that passes and one for the version, and the packet.
func FuzzPackets(f *testing.F) {
	connects := make(map[byte]packet.Packet)
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		c := &packet.Connect{Version: v, ClientID: "s"}
		keep(c)
		connects[byte(v)] = c
	}
	packets := make(map[byte][][]byte)
	for _, v := range packettest.Vectors(f, "packet/testdata") {
		if size, err := packet.Frame(v.Bytes); err == nil && size == len(v.Bytes) && (v.Verdict == "ok" || v.Verdict == "loose") &&
			v.Bytes[0]>>4 != byte(packet.CONNECT) && len(packets[v.Version]) < 256 {
			packets[v.Version] = append(packets[v.Version], v.Bytes)
		}
	}
	r := rand.New(rand.NewPCG(1, 7))
	for range 8 {
		steps := make([]byte, 60)
		for i := range steps {
			steps[i] = byte(r.Uint32())
		}
		f.Add(steps)
	}
	f.Fuzz(func(t *testing.T, steps []byte) {
		story(t, func(w *world) {
			other := w.connect(packet.V5, "other").send(sub2(1, "a"))
			other.wants("connack 0x00", "suback 1 [0x02]")
			var peers [2]*peer
			for ; len(steps) > 1; steps = steps[2:] {
				which, version := steps[0]&1, packet.V311+packet.Version(steps[0]>>1&1)
				p := peers[which]
				if p == nil || p.got == nil {
					p = w.dial(version).send(connects[byte(version)])
					peers[which] = p
				}
				all := packets[byte(p.v)]
				p.send(sub2(9, "a", "$SYS/broker/uptime"))
				p.raw(bytes.Clone(all[int(steps[1])%len(all)]))
				if steps[0]&4 != 0 {
					time.Sleep(time.Minute)
				}
				p.take() // notes that it has ended
			}
			other.take()
			other.send(&packet.Ping{})
			synctest.Wait()
			if got := other.take(); len(got) == 0 || got[len(got)-1] != "pingresp" {
				t.Errorf("a ping is answered with %q", got)
			}
		})
	})
}
