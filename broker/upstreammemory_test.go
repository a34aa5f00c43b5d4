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
