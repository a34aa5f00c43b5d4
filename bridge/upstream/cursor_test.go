package upstream

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"millrace/broker/record"
)

func someCursor() Cursor {
	c := Cursor{
		Upstream: "s.a", Next: 40, Last: 38, CRC: 7, Ranges: []Range{{3, 9}, {12, 30}}, Turn: 2, By: "life", At: 1_700_000_000_000,
	}
	c.Local[0], c.UpstreamID[15] = 0xab, 1
	return c
}

func TestCursorsAreWrittenInOneForm(t *testing.T) {
	k := CursorKey{Board: "b", Link: "hq", Lane: "live", Topic: "s.a", Partition: 3}
	key, err := k.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"board":"b","link":"hq","lane":"live","topic":"s.a","partition":3}`; string(key) != want {
		t.Errorf("key is %s, want %s", key, want)
	}
	if got, err := ParseCursorKey(key); err != nil || got != k {
		t.Errorf("read back: %v, %v", got, err)
	}
	c := someCursor()
	value, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"v":1,"topic_id":"ab000000000000000000000000000000","next":40,"last":38,"crc":7,"upstream":"s.a",` +
		`"upstream_id":"00000000000000000000000000000001","ranges":[[3,9],[12,30]],"turn":2,"by":"life","time":1700000000000}`
	if string(value) != want {
		t.Errorf("value is %s, want %s", value, want)
	}
	if got, err := ParseCursor(value); err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("read back: %v, %v", got, err)
	}
}

func TestCursorsThatAreRefused(t *testing.T) {
	c := someCursor()
	value, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	good := string(value)
	if _, err := ParseCursor([]byte(strings.Replace(good, `"v":1`, `"v":1,"more":{"a":[1]}`, 1))); err != nil {
		t.Errorf("a field of a later version: %v", err)
	}
	for _, tt := range []struct {
		name, old, text string
		err             error
	}{
		{"later version", `"v":1`, `"v":2`, ErrVersion},
		{"no version", `"v":1,`, ``, ErrCursor},
		{"short id", `"ab00`, `"ab`, ErrCursor},
		{"id that is no hex", `"ab00`, `"xy00`, ErrCursor},
		{"negative next", `"next":40`, `"next":-1`, ErrCursor},
		{"last at next", `"last":38`, `"last":40`, ErrCursor},
		{"range backwards", `[3,9]`, `[9,3]`, ErrCursor},
		{"ranges that touch", `[12,30]`, `[9,30]`, ErrCursor},
		{"range beyond next", `[12,30]`, `[12,41]`, ErrCursor},
		{"too many ranges", `[3,9]`, strings.Repeat("[0,1],", rangesMax) + `[3,9]`, ErrCursor},
		{"not JSON", `{`, `[`, ErrCursor},
		{"too long", `"life"`, `"` + strings.Repeat("x", cursorValueMax) + `"`, ErrCursor},
	} {
		bad := strings.Replace(good, tt.old, tt.text, 1)
		if bad == good {
			t.Fatalf("%s changes nothing", tt.name)
		}
		if _, err := ParseCursor([]byte(bad)); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
	for _, key := range []string{"", "{}x", `{"partition":-1}`, `{"topic":"` + strings.Repeat("x", cursorKeyMax) + `"}`} {
		if _, err := ParseCursorKey([]byte(key)); !errors.Is(err, ErrCursor) {
			t.Errorf("key %.20q: %v", key, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	c := someCursor()
	value, err := c.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte(`{"v":1}`))
	f.Add([]byte(`{"v":9}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		if _, err := ParseCursorKey(p); err != nil && !errors.Is(err, ErrCursor) {
			t.Fatalf("key: %v", err)
		}
		c, err := ParseCursor(p)
		if err != nil {
			if !errors.Is(err, ErrCursor) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		again, err := c.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := ParseCursor(again); err != nil && len(again) <= cursorValueMax || err == nil && !reflect.DeepEqual(c, d) {
			t.Fatalf("%v became %v: %v", c, d, err)
		}
	})
}

func TestTheSumTellsRecordsApart(t *testing.T) {
	base := record.Record{Offset: 5, Timestamp: 6, Key: []byte("k"), Value: []byte("v"), Headers: []record.Header{{Key: "h", Value: []byte("x")}}}
	seen := map[uint32]string{sum(&base): "base"}
	for name, change := range map[string]func(*record.Record){
		"offset":       func(r *record.Record) { r.Offset++ },
		"timestamp":    func(r *record.Record) { r.Timestamp++ },
		"null key":     func(r *record.Record) { r.Key = nil },
		"empty key":    func(r *record.Record) { r.Key = []byte{} },
		"null value":   func(r *record.Record) { r.Value = nil },
		"moved byte":   func(r *record.Record) { r.Key, r.Value = []byte("kv"), []byte{} },
		"header":       func(r *record.Record) { r.Headers = nil },
		"header value": func(r *record.Record) { r.Headers = []record.Header{{Key: "h"}} },
	} {
		r := base
		change(&r)
		s := sum(&r)
		if other, is := seen[s]; is {
			t.Errorf("%s has the sum of %s", name, other)
		}
		seen[s] = name
	}
}

func TestVerdicts(t *testing.T) {
	id, other := [16]byte{1}, [16]byte{2}
	cursor := Cursor{Local: id, UpstreamID: id, Upstream: "u", Next: 100, Last: 98, CRC: 7}
	fine := Facts{Local: id, Upstream: id, Start: 0, High: 100, Found: true, CRC: 7}
	for _, tt := range []struct {
		name   string
		change func(*Cursor, *Facts)
		want   Verdict
	}{
		{"all is as it was", func(*Cursor, *Facts) {}, Go},
		{"more was written", func(_ *Cursor, f *Facts) { f.High = 200 }, Go},
		{"the record is gone", func(_ *Cursor, f *Facts) { f.Found, f.CRC, f.Start = false, 0, 150; f.High = 200 }, Go},
		{"the local topic was made anew", func(_ *Cursor, f *Facts) { f.Local = other }, LocalAnew},
		{"the upstream topic was made anew", func(_ *Cursor, f *Facts) { f.Upstream = other }, UpstreamAnew},
		{"the peer knows no ids", func(_ *Cursor, f *Facts) { f.Upstream = [16]byte{} }, Go},
		{"the peer knew no ids", func(c *Cursor, _ *Facts) { c.UpstreamID = [16]byte{} }, Go},
		{"an older disk", func(_ *Cursor, f *Facts) { f.High = 99; f.Found = true }, LocalShort},
		{"another record", func(_ *Cursor, f *Facts) { f.CRC = 8 }, LocalOther},
		{"both topics were made anew", func(_ *Cursor, f *Facts) { f.Local, f.Upstream = other, other }, LocalAnew},
	} {
		c, f := cursor, fine
		tt.change(&c, &f)
		v, reason := Judge(&c, f)
		if v != tt.want || (v == Go) != (reason == "") || v.Stopped() != (v != Go) {
			t.Errorf("%s: %v, %q, want %v", tt.name, v, reason, tt.want)
		}
	}
}

func TestTopicsAreChosen(t *testing.T) {
	c := Config{Topics: []string{"sensors.*", "alarms", "a*b*c", "__exact"}, Exclude: []string{"sensors.down.*"}, Alias: "plant", Naming: "{cluster}.{topic}"}
	for topic, want := range map[string]bool{
		"sensors.temp": true, "sensors.": true, "sensors": false, "alarms": true, "alarms2": false, "sensors.down.x": false,
		"abc": true, "axxbxxc": true, "ac": false, "acb": false, "__exact": true, "__other": false,
	} {
		if got := c.chosen(topic); got != want {
			t.Errorf("%s: %v", topic, got)
		}
	}
	if c.Topics = []string{"*"}; c.chosen("__internal") || !c.chosen("any") {
		t.Error("* chooses internal topics, or not the others")
	}
	c.Topics = []string{"*", "hq.heartbeats"}
	for topic, comes := range map[string]bool{
		"any": true, "heartbeats": false, "plant.heartbeats": false, "hq.heartbeats": true, "heartbeats.plant": true, "myheartbeats": true,
		"mm2-offset-syncs.plant.internal": false, "plant.checkpoints.internal": false, "connect-internal": false, "a.replica": false, "replica": true,
	} {
		if got := c.comes(topic); got != comes || !c.chosen(topic) {
			t.Errorf("%s comes down: %v", topic, got)
		}
	}
	if got := c.upstream("t"); got != "plant.t" {
		t.Errorf("upstream it is %q", got)
	}
}

func TestPlaces(t *testing.T) {
	if p := place(3, 4, 4, []byte("k")); p != 3 {
		t.Errorf("with as many partitions %d", p)
	}
	if p, want := place(3, 4, 6, []byte("k")), record.PartitionForKey([]byte("k"), 6); p != want {
		t.Errorf("with a key %d, want %d", p, want)
	}
	if p := place(3, 4, 2, nil); p != 1 {
		t.Errorf("without a key %d", p)
	}
}

func TestSharesOfLanes(t *testing.T) {
	s := shares{weight: [lanes]float64{Live: 0.7, Backfill: 0.3}}
	s.note(Live, true)
	if !s.turn(Live) {
		t.Fatal("a lane that is alone has to wait")
	}
	s.served[Live] = 1 << 40 // alone it saves up nothing, and owes nothing
	s.note(Backfill, true)
	sent := [lanes]int64{}
	for i := range 10_000 {
		l := Lane(i % 2)
		if !s.turn(l) {
			l = 1 - l
			if !s.turn(l) {
				t.Fatal("nobody may send")
			}
		}
		s.served[l] += 64 << 10
		sent[l] += 64 << 10
	}
	if share := float64(sent[Live]) / float64(sent[Live]+sent[Backfill]); share < 0.69 || share > 0.71 {
		t.Errorf("the live lane got %.3f", share)
	}
}
