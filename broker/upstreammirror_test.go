package broker

import (
	"strings"
	"testing"

	"millrace/broker/catalog"
)

// What a board does as MirrorMaker does is done by the settings of the file: heartbeats under the name of its cluster, and
// settings of topics that follow when they change.
func TestALinkDoesAsMirrorMakerDoes(t *testing.T) {
	p := newPlant(t, aLink("hq", "'plant.*'")+"emit.heartbeats.interval = '1s'\nconfig.properties.exclude = ['max.*']\n")
	appendOne(t, p.Broker, "plant.a", "1")
	p.wants("plant.a", "1")
	p.until("two heartbeats have come", func() bool { return p.one("hq").Heartbeats >= 2 && len(p.kafka.Committed("test.heartbeats", 0)) >= 2 })
	alter := func(name, value string) {
		t.Helper()
		id := p.Image().Topic("plant.a").ID
		if _, err := p.Propose(t.Context(), catalog.AlterTopicConfig{Topic: id, Ops: []catalog.ConfigOp{{Name: name, Op: catalog.OpSet, Value: value}}}); err != nil {
			t.Fatal(err)
		}
		p.links.compare(p.Image())
	}
	alter("compression.type", "lz4")
	p.until("the setting has followed", func() bool { return p.kafka.Settings("plant.a")["compression.type"] == "lz4" })
	p.kafka.Set("plant.a", "compression.type", "gzip")
	alter("max.message.bytes", "1000")
	alter("compression.type", "zstd")
	p.until("it says that somebody else has changed it", func() bool {
		s := p.one("hq")
		return len(s.Notes) == 1 && strings.Contains(s.Notes[0], "compression.type of plant.a was changed there by somebody else") && s.Trouble == ""
	})
	if got := p.kafka.Settings("plant.a"); got["compression.type"] != "gzip" || got["max.message.bytes"] != "" {
		t.Errorf("upstream it has %v", got)
	}
}
