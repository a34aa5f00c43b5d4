package upstream

import (
	"slices"
	"testing"

	"millrace/broker/record"
)

// sending is a live lane that follows groups, with one partition of a table.
func sending(p *part) *lane {
	l := &Link{cfg: Config{Groups: []string{"*"}}, table: newTable(1)}
	l.env.Groups = nobody{}
	l.table.all = append(l.table.all, p)
	ln := &lane{Link: l, lane: Live}
	ln.filler.cfg = &l.cfg
	return ln
}

type nobody struct{}

func (nobody) Names() []string              { return nil }
func (nobody) Offsets(string) []GroupOffset { return nil }

// went has a transaction with records from an offset on be committed, and they went to ups.
func (ln *lane) went(d *draft, first int64, ups ...int64) {
	ln.filler.reset()
	for i, up := range ups {
		ln.filler.from = append(ln.filler.from, origin{part: d.part, local: first + int64(i)})
		ln.filler.records = append(ln.filler.records, Record{Offset: up})
	}
	d.cursor.Last, d.cursor.Next = first+int64(len(ups))-1, first+int64(len(ups))
	ln.drafts = []*draft{d}
	ln.passedLocked(len(ups))
	d.part.lane[Live].cursor = d.cursor
}

// A group that had read all has not when something went where nobody knows.
func TestWhatWentSomewhereElseIsUnread(t *testing.T) {
	for name, lose := range map[string]func(ln *lane, d *draft){
		"nobody knows where":  func(ln *lane, d *draft) { ln.went(d, 10, -1, -1) },
		"back":                func(ln *lane, d *draft) { ln.went(d, 10, 3, 4) },
		"by key":              func(ln *lane, d *draft) { d.have = 2; ln.went(d, 10, 7, 8); d.have = 1 },
		"by key, and go back": func(ln *lane, d *draft) { d.have = 2; ln.went(d, 10, 7); d.have = 1; ln.went(d, 11, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			p := &part{lane: [lanes]*position{{cursor: Cursor{Last: -1}}, {}}, to: &target{mine: 1, have: 1}, log: struct{ Partition }{}}
			p.align()
			ln := sending(p)
			all, some := &mark{part: p, at: 10, up: -1}, &mark{part: p, at: 9, up: -1}
			p.marks = []*mark{all, some}
			d := &draft{part: p, mine: 1, have: 1}
			ln.went(d, 8, 5, 6)
			if all.up != 7 || all.final || some.up != 6 || !some.final {
				t.Fatalf("at first %+v, %+v", all, some)
			}
			lose(ln, d)
			if all.up != -1 {
				t.Errorf("who had read all is at %d", all.up)
			}
			if some.up != 6 {
				t.Errorf("what was delivered before is at %d now", some.up)
			}
		})
	}
}

// What is looked for is a record as it was sent: anything that is not so ends it.
func TestTheSameRecordIsKnownAgain(t *testing.T) {
	own := []record.Header{{Key: "a", Value: []byte("1")}, {Key: HeaderOffset, Value: []byte("of another board")}}
	with := func(more ...record.Header) []record.Header { return append(slices.Clone(own), more...) }
	header := func(key, value string) record.Header { return record.Header{Key: key, Value: []byte(value)} }
	f := &filler{cfg: &Config{Board: "b1"}}
	f.from = []origin{{part: &part{topic: "s.a", index: 2}, local: 7, headers: len(own)}}
	for name, tt := range map[string]struct {
		change func(r *Record, s *Seen)
		same   bool
	}{
		"nothing":          {func(*Record, *Seen) {}, true},
		"key":              {func(_ *Record, s *Seen) { s.Key = []byte("l") }, false},
		"no value":         {func(_ *Record, s *Seen) { s.Value = nil }, false},
		"stamp":            {func(_ *Record, s *Seen) { s.Timestamp++ }, false},
		"the peer's stamp": {func(_ *Record, s *Seen) { s.Timestamp++; s.AppendTime = true }, true},
		"not sure then":    {func(_ *Record, s *Seen) { s.Timestamp++; s.Headers = with(header(HeaderClock, "unsure")) }, true},
		"not sure now":     {func(r *Record, s *Seen) { s.Timestamp++; r.Headers = with(header(HeaderClock, "unsure")) }, true},
		"a header less":    {func(_ *Record, s *Seen) { s.Headers = own[:1] }, false},
		"another header":   {func(_ *Record, s *Seen) { s.Headers = []record.Header{own[0], header(HeaderOffset, "7")} }, false},
		"a header more":    {func(_ *Record, s *Seen) { s.Headers = with(header("b", "")) }, false},
		"provenance": {func(_ *Record, s *Seen) {
			s.Headers = with(header(HeaderBoard, "b1"), header(HeaderTopic, "s.a"), header(HeaderPartition, "2"), header(HeaderOffset, "7"))
		}, true},
		"another offset":        {func(_ *Record, s *Seen) { s.Headers = with(header(HeaderOffset, "8")) }, false},
		"another board":         {func(_ *Record, s *Seen) { s.Headers = with(header(HeaderBoard, "b2")) }, false},
		"one of two lanes":      {func(_ *Record, s *Seen) { s.Headers = with(header(HeaderLane, "live")) }, false},
		"provenance only now":   {func(r *Record, _ *Seen) { r.Headers = with(header(HeaderOffset, "7")) }, true},
		"another partition's":   {func(_ *Record, s *Seen) { s.Headers = with(header(HeaderPartition, "1")) }, false},
		"another topic's":       {func(_ *Record, s *Seen) { s.Headers = with(header(HeaderTopic, "s.b")) }, false},
		"empty key and no key":  {func(r *Record, s *Seen) { r.Key, s.Key = nil, []byte{} }, false},
		"sure, and another one": {func(r *Record, _ *Seen) { r.Timestamp-- }, false},
	} {
		f.records = []Record{{Timestamp: 5, Key: []byte("k"), Value: []byte("v"), Headers: own}}
		s := Seen{Timestamp: 5, Key: []byte("k"), Value: []byte("v"), Headers: own}
		if tt.change(&f.records[0], &s); f.same(0, &s) != tt.same {
			t.Errorf("%s: it is %v", name, !tt.same)
		}
	}
}

// A cursor whose record was sent before what the other lane got says nothing of where that went.
func TestACursorSaysNothingOfTheOtherLane(t *testing.T) {
	for at, want := range map[int64]bool{39: false, 59: false, 60: true, 70: true} {
		c := Cursor{Next: 80, Last: 75, Ranges: []Range{{10, 20}, {50, 60}}, Sync: Sync{true, at, at + 5, 1}}
		value, err := c.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = ParseCursor(value); err != nil || c.Sync.Is != want {
			t.Errorf("of %d it says %+v, %v", at, c.Sync, err)
		}
	}
}
