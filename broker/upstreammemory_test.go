package broker

import (
	"testing"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/upstreamtest"
)

// What was delivered to one cluster is not taken for delivered to another that the same link goes to from now on.
func TestWhatWasDeliveredElsewhereIsNot(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		want       int64
	}{
		{"the same place", "bootstrap.servers = ['127.0.0.1:1', '127.0.0.1:2']\n", 1},
		{"named otherwise", "bootstrap.servers = ['127.0.0.1:2', '127.0.0.1:1']\nnum.partitions = 3\n", 1},
		{"other servers", "bootstrap.servers = ['127.0.0.1:3']\n", 0},
		{"another cursor topic", "bootstrap.servers = ['127.0.0.1:1', '127.0.0.1:2']\ncursor.topic = 'elsewhere'\n", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			link := "[[upstream]]\nname = 'hq'\ntopics = ['a']\n"
			p := newPlant(t, link+"bootstrap.servers = ['127.0.0.1:1', '127.0.0.1:2']\n")
			appendOne(t, p.Broker, "a", "1")
			p.until("it knows that all is delivered", func() bool { s := p.one("hq"); return s.State == string(upstream.StateIdle) && s.Sent == 1 })
			p.kafka.Fail(upstreamtest.Faults{Lost: 1})
			p.reload(link + tt.file)
			list, _ := p.Topic("a")
			if from, _, needed := p.links.Needed("a", list[0].TopicID(), 0); !needed || from != tt.want {
				t.Errorf("needed %v from %d, want %d", needed, from, tt.want)
			}
		})
	}
}

// More links have to share the same memory: those that were there give of theirs.
func TestLinksThatAreMoreShareMemory(t *testing.T) {
	file := aLink("l0", "'a0'")
	p := newPlant(t, file)
	appendOne(t, p.Broker, "a0", "1")
	p.wants("a0", "1")
	first := p.links.find("l0")
	alone := p.memory.transactionBytes(1)
	for i := range 7 {
		name := string(rune('1' + i))
		file += aLink("l"+name, "'a"+name+"'")
		p.reload(file)
		if less := p.memory.transactionBytes(i + 2); (p.links.find("l0") != first) != (less < alone) {
			t.Errorf("of %d links the first is another one: %v; each has %d, alone it had %d", i+2, p.links.find("l0") != first, less, alone)
		}
	}
	if p.memory.transactionBytes(8) == alone {
		t.Error("that proves nothing")
	}
	appendOne(t, p.Broker, "a0", "2")
	appendOne(t, p.Broker, "a7", "1")
	p.wants("a0", "1", "2")
	p.wants("a7", "1")
}
