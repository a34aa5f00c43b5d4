package broker

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"millrace/bridge/upstream"
	"millrace/broker/catalog"
	"millrace/broker/record"
)

// downLink is a link that goes down, with those topics in TOML.
func downLink(name, topics string) string { return aLink(name, topics) + "direction = 'down'\n" }

// holds are the values a partition of the board has, in order.
func (p *plant) holds(topic string, index int32) (values []string) {
	p.t.Helper()
	for _, r := range p.records(topic, index) {
		values = append(values, string(r.Value))
	}
	return values
}

// records are those of a partition of the board.
func (p *plant) records(topic string, index int32) (list []record.Record) {
	p.t.Helper()
	for _, part := range (linkLog{p.Broker}).Partitions(topic) {
		if part.Index() != index {
			continue
		}
		var raw []byte
		for next, high := part.Start(), part.High(); next < high; {
			raw, err := part.ReadBatches(raw[:0], next, 1<<20)
			if err != nil {
				p.t.Fatal(err)
			}
			for len(raw) > 0 {
				var b record.Batch
				if b, raw, err = record.Next(raw); err != nil {
					p.t.Fatal(err)
				}
				next = b.NextOffset()
				for r, err := range b.Records(1 << 20) {
					if err != nil {
						p.t.Fatal(err)
					}
					r.Key, r.Value, r.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
					list = append(list, r)
				}
			}
		}
	}
	return list
}

// gets waits until a partition of the board holds just these values.
func (p *plant) gets(topic string, index int32, values ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf("the board's %s-%d holds %q", topic, index, values), func() bool { return slices.Equal(p.holds(topic, index), values) })
}

// command is a record upstream.
func command(topic string, partition int32, value string) upstream.Record {
	return upstream.Record{Topic: topic, Partition: partition, Timestamp: 1_700_000_000_000, Key: []byte("k"), Value: []byte(value)}
}

func TestALinkBringsDown(t *testing.T) {
	p := newPlant(t, "")
	p.kafka.Create("c.a", 2, true)
	p.kafka.Create("other", 1, false)
	p.kafka.Write(command("c.a", 0, "1"), command("c.a", 1, "2"), command("other", 0, "3"))
	p.kafka.Transact(command("c.a", 0, "taken back"))(false)
	p.kafka.Transact(command("c.a", 0, "4"))(true)
	p.reload(downLink("hq", "'c.*'") + "naming = '{cluster}.{topic}'\n")
	p.gets("hq.c.a", 0, "1", "4")
	p.gets("hq.c.a", 1, "2")
	r := p.records("hq.c.a", 0)[0]
	if len(r.Headers) != 1 || r.Headers[0].Key != upstream.HeaderCluster || string(r.Headers[0].Value) != "fake" || r.Timestamp != 1_700_000_000_000 || string(r.Key) != "k" {
		t.Errorf("%+v", r)
	}
	list, _ := p.Topic("hq.c.a")
	if !list[0].Config().CleanupCompact {
		t.Error("the topic of the board is not compacted, as the one upstream is")
	}
	if _, made := p.Topic("hq.other"); made {
		t.Error("a topic came that nobody has chosen")
	}
	p.until("it is idle", func() bool { return p.state("hq") == upstream.StateIdle })
	s := p.one("hq")
	if s.Direction != "down" || s.Sent != 3 || s.Partitions != 2 || s.Records != 0 || s.Trouble != "" || s.LastSuccess == nil || s.Transactions == 0 {
		t.Errorf("%+v", s)
	}
	if _, _, needed := p.links.Needed("hq.c.a", list[0].TopicID(), 0); needed {
		t.Error("a link that goes down needs what is here")
	}

	// What was taken is not taken again by the next life; a pause outlives the board.
	if err := p.links.Pause("hq"); err != nil {
		t.Fatal(err)
	}
	p.until("it is paused", func() bool { return p.state("hq") == upstream.StatePaused })
	p.kafka.Write(command("c.a", 0, "5"))
	p.settings = linked(t, p.dir, downLink("hq", "'c.*'")+"naming = '{cluster}.{topic}'\n")
	p.stop()
	p.start()
	if s := p.one("hq"); s.State != string(upstream.StatePaused) || !s.Paused {
		t.Errorf("%+v", s)
	}
	if err := p.links.Resume("hq"); err != nil {
		t.Fatal(err)
	}
	p.gets("hq.c.a", 0, "1", "4", "5")
	p.gets("hq.c.a", 1, "2")

	// Partitions are followed.
	p.kafka.Grow("c.a", 3)
	p.kafka.Write(command("c.a", 2, "6"))
	p.links.find("hq").link.Kick() // it need not wait until it would look
	p.gets("hq.c.a", 2, "6")
}

// A topic that was made anew at either end stops its partitions, until somebody decides.
func TestAPersonDecidesAboutWhatComesDown(t *testing.T) {
	p := newPlant(t, "")
	p.kafka.Create("c", 1, false)
	p.kafka.Write(command("c", 0, "1"))
	p.reload(downLink("hq", "'c'"))
	p.gets("c", 0, "1")
	stops := func(why string) {
		t.Helper()
		p.links.find("hq").link.Kick()
		p.until("it stops", func() bool { return p.one("hq").Stopped == 1 })
		if s := p.one("hq"); len(s.List) != 1 || !strings.Contains(s.List[0].Reason, why) || !strings.Contains(s.Trouble, "resolve") {
			t.Errorf("%+v", s)
		}
	}
	decide := func(to string) {
		t.Helper()
		if _, err := Decide(t.Context(), p.dir, "resolve", url.Values{"link": {"hq"}, "topic": {"c"}, "partition": {"0"}, "to": {to}}); err != nil {
			t.Fatal(err)
		}
	}
	p.kafka.Create("c", 1, false)
	p.kafka.Write(command("c", 0, "2"), command("c", 0, "3"))
	stops("upstream topic c was made anew")
	decide("1")
	p.gets("c", 0, "1", "3")
	if gaps := p.holds(upstream.LocalGapTopic, 0); len(gaps) != 1 || !strings.Contains(gaps[0], `"first":0,"last":0,"count":1,"cause":"decision"`) {
		t.Errorf("%q", gaps)
	}
	if _, err := Decide(t.Context(), p.dir, "resolve", url.Values{"link": {"hq"}, "topic": {"c"}, "partition": {"7"}, "to": {"latest"}}); err == nil {
		t.Error("something was decided about a partition that is not there")
	}
	list, _ := p.Topic("c")
	if _, err := p.Propose(t.Context(), catalog.DeleteTopic{Topic: list[0].TopicID()}); err != nil {
		t.Fatal(err)
	}
	stops("is not there")
	decide("earliest")
	p.gets("c", 0, "2", "3")
}

// Two boards that send to one Kafka, and take from it, have what the other has, once, and their own only as it was written.
func TestActiveActiveDoesNotLoop(t *testing.T) {
	file := aLink("up", "'t'") + downLink("down", "'t'")
	a := newPlant(t, "")
	b := newPlant(t, "")
	b.kafka = a.kafka
	want := map[string]bool{}
	a.reload(file)
	b.reload(file)
	for i := range 20 {
		for name, p := range map[string]*plant{"a": a, "b": b} {
			value := fmt.Sprint(name, i)
			appendOne(t, p.Broker, "t", value)
			want[value] = true
		}
	}
	for _, p := range []*plant{a, b} {
		p.links.find("down").link.Kick() // the topic upstream is new
	}
	all := func(p *plant) bool { return len(p.holds("t", 0)) >= len(want) }
	a.until("a has everything", func() bool { return all(a) })
	b.until("b has everything", func() bool { return all(b) })
	for _, p := range []*plant{a, b} {
		for _, link := range []string{"up", "down"} {
			p.until(link+" is idle", func() bool { s := p.one(link); return s.State == string(upstream.StateIdle) && s.Records == 0 })
		}
	}
	for _, values := range [][]string{a.holds("t", 0), b.holds("t", 0), a.delivered("t")} {
		seen := map[string]int{}
		for _, v := range values {
			seen[v]++
		}
		if len(values) != len(want) || len(seen) != len(want) {
			t.Errorf("%d records, %d different: %q", len(values), len(seen), values)
		}
	}
	if a.one("up").Looped != 20 || a.one("down").Looped != 20 {
		t.Errorf("%d of the other's were left out going up, %d of its own coming down", a.one("up").Looped, a.one("down").Looped)
	}
}

// What a topic of the board does not take holds up its partition, until somebody decides.
func TestARecordThatIsTooLargeComesDown(t *testing.T) {
	p := newPlant(t, "")
	p.kafka.Create("c", 1, false)
	p.kafka.Write(command("c", 0, "1"))
	p.reload("[topic.c]\n'max.message.bytes' = 1000\n" + downLink("hq", "'c'"))
	p.gets("c", 0, "1")
	p.kafka.Write(command("c", 0, strings.Repeat("x", 2000)), command("c", 0, "2"))
	p.until("it is refused", func() bool { return p.one("hq").Refused == 1 })
	if s := p.one("hq"); !strings.Contains(s.List[0].Reason, "max.message.bytes") || s.Records != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := Decide(t.Context(), p.dir, "resolve", url.Values{"link": {"hq"}, "topic": {"c"}, "partition": {"0"}, "to": {"2"}}); err != nil {
		t.Fatal(err)
	}
	p.gets("c", 0, "1", "2")
}
