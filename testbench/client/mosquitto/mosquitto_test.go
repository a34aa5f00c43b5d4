package mosquitto

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/testbench/process"
)

// What mosquitto_pub publishes, a Kafka client reads byte for byte and in order under the MQTT topic as key.
func TestPublishesAreRecords(t *testing.T) {
	p := start(t, "")
	const n = 300
	total := 0
	want := map[string][]string{}
	for _, version := range versions {
		for _, qos := range []string{"0", "1", "2"} {
			topic := "plant/" + version + "/" + qos
			payloads, input := lines(topic, n)
			pub(t, p, input, "-V", version, "-q", qos, "-t", topic, "-i", "writer-"+qos, "-l")
			want[topic] = payloads
			total += n
		}
	}
	records := consume(t, p, "mqtt", total)
	for topic, payloads := range want {
		equal(t, topic, values(records, topic), payloads)
	}
	for _, r := range records {
		if len(r.Headers) != 3 || string(r.Headers[0].Value) != string(r.Key) || r.Headers[0].Key != "mqtt.topic" {
			t.Fatalf("the record at %d has headers %q", r.Offset, r.Headers)
		}
	}
	// kcat says the same, and that there is nothing more.
	var text strings.Builder
	for _, r := range records {
		fmt.Fprintf(&text, "%s\t%s\n", r.Key, r.Value)
	}
	if got := kcat(t, p, "", "-C", "-t", "mqtt", "-o", "beginning", "-e", "-q", "-f", `%k\t%s\n`); got != text.String() {
		t.Errorf("kcat reads %d bytes, franz-go %d", len(got), text.Len())
	}
}

// A subscriber gets what its filters match, all of it, once, in order, and nothing else.
func TestWildcards(t *testing.T) {
	p := start(t, "")
	const n = 200
	for _, version := range versions {
		one := sub(t, p, "-V", version, "-q", "1", "-t", version+"/+/temperature", "-t", version+"/end")
		all := sub(t, p, "-V", version, "-q", "0", "-t", version+"/#")
		var seenByOne, seenByAll []message
		for i, topic := range []string{"/a/temperature", "/a/b/temperature", "/b/temperature", "/b/humidity", "/a/temperature/x"} {
			topic = version + topic
			payloads, input := lines(topic, n)
			pub(t, p, input, "-V", version, "-q", "1", "-t", topic, "-l")
			seenByAll = append(seenByAll, messages(topic, "0", "0", payloads)...)
			if i == 0 || i == 2 {
				seenByOne = append(seenByOne, messages(topic, "1", "0", payloads)...)
			}
		}
		// One partition: the last message comes last, so what should not have come would have come before.
		pub(t, p, "", "-V", version, "-q", "1", "-t", version+"/end", "-m", "end")
		one.want(append(seenByOne, message{topic: version + "/end", qos: "1", retain: "0", payload: "end"})...)
		all.want(append(seenByAll, message{topic: version + "/end", qos: "0", retain: "0", payload: "end"})...)
		one.stop()
		all.stop()
	}
}

func TestRetained(t *testing.T) {
	p := start(t, "")
	for _, version := range versions {
		live := sub(t, p, "-V", version, "-q", "1", "-t", version+"/#")
		pub(t, p, "", "-V", version, "-q", "1", "-r", "-t", version+"/state", "-m", "old")
		pub(t, p, "", "-V", version, "-q", "1", "-r", "-t", version+"/state", "-m", "new")
		pub(t, p, "", "-V", version, "-q", "1", "-r", "-t", version+"/gone", "-m", "soon")
		pub(t, p, "", "-V", version, "-q", "1", "-r", "-t", version+"/gone", "-n")
		pub(t, p, "", "-V", version, "-q", "1", "-t", version+"/state", "-m", "passing")
		// Who was there sees publishes as they come, without the flag [MQTT-3.3.1-9] of 3.1.1.
		at := func(topic, retain, payload string) message {
			return message{topic: version + topic, qos: "1", retain: retain, payload: payload}
		}
		live.want(at("/state", "0", "old"), at("/state", "0", "new"), at("/gone", "0", "soon"), at("/gone", "0", ""), at("/state", "0", "passing"))
		live.stop()
	}
	for range 2 {
		for _, version := range versions {
			late := sub(t, p, "-V", version, "-q", "1", "-t", version+"/#")
			pub(t, p, "", "-V", version, "-q", "1", "-t", version+"/end", "-m", "end")
			late.want(message{topic: version + "/state", qos: "1", retain: "1", payload: "new"},
				message{topic: version + "/end", qos: "1", retain: "0", payload: "end"})
			late.stop()
		}
		p.Kill()
		p.Start()
	}
}

func TestWills(t *testing.T) {
	p := start(t, "")
	var stored []string
	for _, version := range versions {
		watcher := sub(t, p, "-V", version, "-q", "1", "-t", version+"/will/#")
		with := func(name string, more ...string) *subscriber {
			return sub(t, p, append(more, "-V", version, "-i", name, "-t", version+"/go", "--will-topic", version+"/will/"+name,
				"--will-payload", "end of "+name, "--will-qos", "1", "--will-retain")...)
		}
		// mosquitto_sub leaves with an ordinary DISCONNECT after its last message: no will.
		leaver := with("leaver", "-C", "1", "-q", "1")
		pub(t, p, "", "-q", "1", "-t", version+"/go", "-m", "go")
		leaver.want(message{topic: version + "/go", qos: "1", retain: "0", payload: "go"})
		leaver.left()
		// Stopped by a signal it asks for its will, where the version lets it: DISCONNECT 0x04, 3.14.2.1 of MQTT 5.
		asker := with("asker")
		asker.stop()
		crasher := with("crasher")
		crasher.crash()
		var wills []message
		for _, name := range []string{"asker", "crasher"} {
			if name == "crasher" || version == "mqttv5" {
				wills = append(wills, message{topic: version + "/will/" + name, qos: "1", retain: "0", payload: "end of " + name})
			}
		}
		watcher.want(wills...)
		pub(t, p, "", "-q", "1", "-t", version+"/will/end", "-m", "end")
		watcher.want(message{topic: version + "/will/end", qos: "1", retain: "0", payload: "end"})
		last := wills[len(wills)-1]
		last.retain = "1"
		sub(t, p, "-V", version, "-q", "1", "-t", last.topic).want(last)
		for _, m := range wills {
			stored = append(stored, m.topic+" "+m.payload)
		}
		stored = append(stored, version+"/will/end end")
	}
	var got []string
	for _, r := range consume(t, p, "mqtt", len(stored)+len(versions)) {
		if !strings.HasSuffix(string(r.Key), "/go") {
			got = append(got, string(r.Key)+" "+string(r.Value))
		}
	}
	equal(t, "wills in the log", got, stored)
}

// A durable session gets what was published while it was away, over kill -9, once and in order; a clean one does not.
func TestSessionsOverKill9(t *testing.T) {
	p := start(t, "")
	for _, version := range versions {
		for _, qos := range []string{"1", "2"} {
			sessionOverKill9(t, p, version, qos)
		}
	}
}

func sessionOverKill9(t *testing.T, p *process.Process, version, qos string) {
	const n = 300
	root := version + "-" + qos
	session := []string{"-V", version, "-q", qos, "-t", root + "/#", "-i", "durable-" + root}
	durable := append([]string{"-c"}, session...)
	sub(t, p, append(durable, "-E")...).left()
	var want []message
	for _, part := range []string{"before", "between", "after"} {
		payloads, input := lines(part, n)
		pub(t, p, input, "-V", version, "-q", qos, "-t", root+"/"+part, "-l")
		want = append(want, messages(root+"/"+part, qos, "0", payloads)...)
		if part != "after" {
			p.Kill()
			p.Start()
		}
	}
	// The last of them with the session there again.
	back := sub(t, p, durable...)
	pub(t, p, "", "-V", version, "-q", qos, "-t", root+"/end", "-m", "end")
	back.want(append(want, message{topic: root + "/end", qos: qos, retain: "0", payload: "end"})...)
	back.stop()

	// A clean start ends the session, and the next one finds nothing of what was published meanwhile.
	sub(t, p, session...).stop()
	pub(t, p, "", "-V", version, "-q", qos, "-t", root+"/missed", "-m", "missed")
	clean := sub(t, p, session...)
	pub(t, p, "", "-V", version, "-q", qos, "-t", root+"/seen", "-m", "seen")
	clean.want(message{topic: root + "/seen", qos: qos, retain: "0", payload: "seen"})
	clean.stop()
}

func TestLargePayloads(t *testing.T) {
	p := start(t, "")
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{7})
	var want [][]byte
	for _, version := range versions {
		reader := sub(t, p, "-V", version, "-q", "1", "-t", "large/"+version)
		for _, size := range []int{0, 1, 127, 128, 64 << 10, 500_000, 1000<<10 - 100} {
			payload := make([]byte, size)
			if _, err := random.Read(payload); err != nil {
				t.Fatal(err)
			}
			publish(t, p, dir, payload, "-V", version, "-q", "1", "-t", "large/"+version)
			want = append(want, payload)
			if got := reader.next(); got.payload != string(payload) {
				t.Fatalf("%s: %d bytes came of %d, or others", version, len(got.payload), size)
			}
		}
		reader.stop()
	}
	for i, r := range consume(t, p, "mqtt", len(want)) {
		if !bytes.Equal(r.Value, want[i]) {
			t.Errorf("record %d has %d bytes of %d, or others", i, len(r.Value), len(want[i]))
		}
	}
	// One that is larger than max_packet_size is refused, whoever sends it, and hurts nobody else.
	for _, version := range versions {
		cmd := tool(t, p, "mosquitto_pub", "-V", version, "-q", "1", "-t", "large/"+version, "-s")
		cmd.Stdin = bytes.NewReader(make([]byte, 1<<20))
		// With MQTT 5 mosquitto_pub knows Maximum Packet Size, keeps the message to itself, and exits with status 0.
		if out, err := cmd.CombinedOutput(); err == nil && version == "mqttv311" {
			t.Errorf("%s: a packet of more than 1000 KiB was taken: %s", version, out)
		}
	}
	pub(t, p, "", "-q", "1", "-t", "large/end", "-m", "end")
	if last := consume(t, p, "mqtt", len(want)+1)[len(want)]; string(last.Value) != "end" {
		t.Errorf("the record after the refused ones has %d bytes", len(last.Value))
	}
}

// publish publishes bytes that need not be lines.
func publish(t *testing.T, p *process.Process, dir string, payload []byte, args ...string) {
	t.Helper()
	if len(payload) == 0 {
		pub(t, p, "", append(args, "-n")...)
		return
	}
	file := filepath.Join(dir, "payload")
	if err := os.WriteFile(file, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	pub(t, p, "", append(args, "-f", file)...)
}
