package mqtt_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"millrace/bridge/mqtt"
	"millrace/bridge/mqtt/packet"
)

// Births as edge nodes send them: Sparkplug's payload is Protocol Buffers, so no UTF-8. A timestamp, the metric bdSeq (or
// a temperature), seq.
const (
	nbirth = "\x08\xb8\xf3\xa1\xd0\xf8\x31\x12\x10\x0a\x05bdSeq\x18\xb8\xf3\xa1\xd0\xf8\x31\x20\x08\x58\x00\x18\x00"
	dbirth = "\x08\xb9\xf3\xa1\xd0\xf8\x31\x12\x12\x0a\x04temp\x20\x09\x65\x00\x00\xac\x41\x18\x01"
	ndeath = "\x08\xb8\xf3\xa1\xd0\xf8\x31\x12\x0b\x0a\x05bdSeq\x20\x08\x58\x00"
)

func TestBirthsAreKeptAsCertificates(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		const node, device = "spBv1.0/G1/NBIRTH/E1", "spBv1.0/G1/DBIRTH/E1/D1"
		plain := w.connect(v, "plain").send(sub(1, "#"))
		plain.wants("connack 0x00", "suback 1 [0x01]")
		aware := w.connect(v, "aware").send(sub(1, "$sparkplug/certificates/#", "spBv1.0/+/NDEATH/+"))
		aware.wants("connack 0x00", "suback 1 [0x01 0x01]")
		edge := w.connect(v, "edge", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "spBv1.0/G1/NDEATH/E1", Payload: []byte(ndeath), QoS: 1}
		})
		// As Sparkplug has it, births are neither retained nor above QoS 0.
		edge.send(pub(node, nbirth, 0, 0), pub(device, dbirth, 0, 0), pub("spBv1.0/G1/NDATA/E1", "n", 0, 0))
		edge.wants("connack 0x00")
		q := func(s string) string { return show(pub("", s, 0, 0))[len("publish  "):] }
		plain.wants("publish "+node+" "+q(nbirth), "publish "+device+" "+q(dbirth), "publish spBv1.0/G1/NDATA/E1 "+q("n"))
		aware.wants("publish $sparkplug/certificates/"+node+" "+q(nbirth), "publish $sparkplug/certificates/"+device+" "+q(dbirth))
		for range 2 {
			// Who comes later finds them as retained messages, the newest of each; so after a restart.
			w.connect(v, "late").send(sub(1, "$sparkplug/certificates/spBv1.0/+/NBIRTH/+", "$sparkplug/certificates/"+device, "#", "$sparkplug/other")).
				wants("connack 0x00", "suback 1 [0x01 0x01 0x01 0x01]",
					"publish $sparkplug/certificates/"+node+" "+q(nbirth)+" retain", "publish $sparkplug/certificates/"+device+" "+q(dbirth)+" retain")
			w.restart()
		}
		aware = w.connect(v, "aware").send(sub(1, "$sparkplug/certificates/"+node))
		aware.wants("connack 0x00", "suback 1 [0x01]", "publish $sparkplug/certificates/"+node+" "+q(nbirth)+" retain")
		edge = w.connect(v, "edge", func(c *packet.Connect) {
			c.Will = &packet.Will{Topic: "spBv1.0/G1/NDEATH/E1", Payload: []byte(ndeath), QoS: 1}
		}).send(pub(node, nbirth+"2", 0, 0))
		edge.wants("connack 0x00")
		aware.wants("publish $sparkplug/certificates/" + node + " " + q(nbirth+"2"))
		aware.send(sub(2, "spBv1.0/+/NDEATH/+"))
		aware.wants("suback 2 [0x01]")
		edge.conn.Close()
		aware.wants(`publish spBv1.0/G1/NDEATH/E1 ` + strings.TrimSuffix(q(ndeath), "q0") + "q1 id1") // as it was registered
		w.connect(v, "later").send(sub(1, "$sparkplug/certificates/#")).
			wants("connack 0x00", "suback 1 [0x01]", "publish $sparkplug/certificates/"+device+" "+q(dbirth)+" retain",
				"publish $sparkplug/certificates/"+node+" "+q(nbirth+"2")+" retain")
	})
}

func TestWhatIsNoBirthIsNotKept(t *testing.T) {
	story(t, func(w *world) {
		w.connect(packet.V5, "a").send(
			pub("spBv1.0/G/NBIRTH/E/D", "x", 1, 1), pub("spBv1.0/G/DBIRTH/E", "x", 1, 2), pub("spBv1.0/G/DBIRTH/E/D/x", "x", 1, 3), pub("spBv1.0/G/NBIRTH", "x", 1, 4),
			pub("spBv1.0/G/NBIRTH/", "x", 1, 5), pub("spBv1.0//NBIRTH/E", "x", 1, 6), pub("spBv1.0/G/DBIRTH/E/", "x", 1, 7), pub("spBv1.0/STATE/host", "x", 1, 8),
			pub("spBv1.0/G/NBIRTH/E", "", 1, 9), pub("x/spBv1.0/G/NBIRTH/E", "x", 1, 10)).
			wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00", "puback 4 0x00", "puback 5 0x00", "puback 6 0x00",
				"puback 7 0x00", "puback 8 0x00", "puback 9 0x00", "puback 10 0x00")
		w.connect(packet.V5, "b").send(sub(1, "$sparkplug/#")).wants("connack 0x00", "suback 1 [0x01]")
		if n := len(w.log.Records("__mqtt_retained")); n != 0 {
			t.Errorf("%d are kept", n)
		}
	})
}

func TestOnlyTheServerMakesCertificates(t *testing.T) {
	story(t, func(w *world) {
		w.connect(packet.V5, "a").send(pub("$sparkplug/certificates/spBv1.0/G/NBIRTH/E", "x", 1, 1), pub("$sparkplug", "x", 1, 2)).
			wants("connack 0x00", "puback 1 0x90", "puback 2 0x90")
		w.connect(packet.V311, "b").send(pub("$sparkplug/x", "x", 1, 1)).wants("connack 0x00", "closed")
	})
}

func TestABirthIsAcknowledgedWhenItsCertificateIsDurable(t *testing.T) {
	story(t, func(w *world) {
		a := w.connect(packet.V5, "a").send(pub("spBv1.0/G/NBIRTH/E", "1", 1, 1))
		a.wants("connack 0x00", "puback 1 0x00")
		w.log.Hold()
		retained := pub("spBv1.0/G/NBIRTH/E", "2", 1, 2) // three records: the topic's, its retained message, the certificate
		retained.Retain = true
		a.send(retained)
		a.wants()
		for range 2 {
			w.log.ReleaseOne(0)
			a.wants()
		}
		w.log.Release()
		a.wants("puback 2 0x00")
		w.log.Fail(mqtt.ErrFull)
		a.send(pub("spBv1.0/G/NBIRTH/E", "3", 1, 3))
		a.wants("puback 3 0x97")
	})
}

// A session that was away gets the births of that time, once, and what was sent and not acknowledged again.
func TestCertificatesReachASessionThatWasAway(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		a := w.connect(v, "a", keep).send(sub(1, "$sparkplug/certificates/#"), &packet.Disconnect{})
		a.wants("connack 0x00", "suback 1 [0x01]", "closed")
		p := w.connect(v, "p").send(pub("spBv1.0/G/NBIRTH/E", "1", 1, 1), pub("other", "x", 1, 2), pub("spBv1.0/G/NBIRTH/F", "2", 1, 3))
		p.wants("connack 0x00", "puback 1 0x00", "puback 2 0x00", "puback 3 0x00")
		a = w.connect(v, "a", keep)
		a.wants("connack 0x00 present", `publish $sparkplug/certificates/spBv1.0/G/NBIRTH/E "1" q1 id1`, `publish $sparkplug/certificates/spBv1.0/G/NBIRTH/F "2" q1 id2`)
		a.send(ack(1), &packet.Disconnect{})
		a.wants("closed")
		w.restart()
		a = w.connect(v, "a", keep)
		synctest.Wait()
		a.wants("connack 0x00 present", `publish $sparkplug/certificates/spBv1.0/G/NBIRTH/F "2" q1 id2 retain dup`)
		a.send(ack(2))
		w.connect(v, "p").send(pub("spBv1.0/G/NBIRTH/E", "3", 1, 1)).wants("connack 0x00", "puback 1 0x00")
		a.wants(`publish $sparkplug/certificates/spBv1.0/G/NBIRTH/E "3" q1 id3`)
	})
}
