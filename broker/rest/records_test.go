package rest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// consumed is an answer to a GET.
type consumed struct {
	Start   int64 `json:"log_start_offset"`
	High    int64 `json:"high_watermark"`
	Next    int64 `json:"next_offset"`
	Records []struct {
		Offset, Timestamp int64
		Value             json.RawMessage
		Omitted           string
	}
}

// stored are the records of a partition as they lie in the log.
func stored(t *testing.T, p *partition.Partition) (all []record.Record) {
	t.Helper()
	for at := p.Start(); at < p.High(); {
		span, err := p.Read(at, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := span.Append(nil)
		span.Release()
		for rest := raw; err == nil && len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				break
			}
			for r, err := range b.Records(1 << 24) {
				if err != nil {
					t.Fatal(err)
				}
				r.Headers = append([]record.Header(nil), r.Headers...)
				all = append(all, r)
			}
			at = b.NextOffset()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// What is written is stored as the bytes the README says, and read as it was written.
func TestEncodings(t *testing.T) {
	null, empty := []byte(nil), []byte{}
	for _, tt := range []struct {
		name, media, record string
		key, value          []byte
		back                string // key and value as they are read; "": as they were written
	}{
		{"an object", jsonType, `"key":"k","value":{ "a" : [1, 2.50, 1e400, "\u00e9<\/x"] }`, []byte("k"), []byte(`{"a":[1,2.50,1e400,"\u00e9<\/x"]}`), `"key":"k","value":{"a":[1,2.50,1e400,"\u00e9<\/x"]}`},
		{"a string is JSON too", jsonType, `"key":null,"value":"hello"`, null, []byte(`"hello"`), ""},
		{"numbers and words", jsonType, `"key":"1","value":true`, []byte("1"), []byte("true"), ""},
		{"null is no value", jsonType, `"key":"k","value":null`, []byte("k"), null, ""},
		{"left out is null", jsonType, ``, null, null, `"key":null,"value":null`},
		{"bytes beside JSON", jsonType, `"key_base64":"/w==","value_base64":"AAE="`, []byte{0xff}, []byte{0, 1}, ""},
		{"empty is not null", jsonType, `"key":"","value_base64":""`, empty, empty, ""},
		{"the word null, as bytes", jsonType, `"key":"k","value_base64":"bnVsbA=="`, []byte("k"), []byte("null"), ""},
		{"JSON given as bytes", jsonType, `"key":"k","value_base64":"eyJhIjogMX0="`, []byte("k"), []byte(`{"a": 1}`), `"key":"k","value":{"a": 1}`},
		{"text that is no JSON", jsonType, `"key":"k","value_base64":"MjEuNSBD"`, []byte("k"), []byte("21.5 C"), ""},
		{"escapes", jsonType, `"key":"a\"\\\/\b\u0001\ud83d\ude00\ufffd","value":1`, []byte("a\"\\/\b\x01😀\uFFFD"), []byte("1"), `"key":"a\"\\/\u0008\u0001😀` + "\uFFFD" + `","value":1`},
		{"Confluent's name for JSON", "application/vnd.kafka.json.v2+json", `"key":"k","value":[1]`, []byte("k"), []byte("[1]"), ""},
		{"text", textType, `"key":"k","value":"21.5 °C"`, []byte("k"), []byte("21.5 °C"), ""},
		{"text that looks like null", textType, `"key":"k","value":"null"`, []byte("k"), []byte("null"), ""},
		{"bytes beside text", textType, `"key":"k","value_base64":"/w=="`, []byte("k"), []byte{0xff}, ""},
		{"binary", binaryType, `"key":"aw==","value":"/wA="`, []byte("k"), []byte{0xff, 0}, ""},
		{"binary, empty and null", binaryType, `"key":null,"value":""`, null, empty, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := begin(t).open()
			w.want(w.post(`{"records":[{`+tt.record+`}]}`, header("Content-Type", tt.media)), 200, `{"offsets":[{"partition":0,"offset":0}]}`)
			got := stored(t, w.logs.Partition("t"))[0]
			if !bytes.Equal(got.Key, tt.key) || (got.Key == nil) != (tt.key == nil) || !bytes.Equal(got.Value, tt.value) || (got.Value == nil) != (tt.value == nil) {
				t.Errorf("stored %q %q, want %q %q", got.Key, got.Value, tt.key, tt.value)
			}
			back := tt.back
			if back == "" {
				back = tt.record
			}
			a := w.get("", header("Accept", tt.media))
			w.want(a, 200, fmt.Sprintf(`"records":[{"offset":0,"timestamp":%d,%s}],"next_offset":1}`, w.logs.Clock.UnixMilli(), back))
			if media := types[formats[tt.media]]; a.header.Get("Content-Type") != media {
				t.Errorf("Content-Type %q, want %q", a.header.Get("Content-Type"), media)
			}
		})
	}
}

func TestHeadersAndTimestamps(t *testing.T) {
	w := begin(t).open()
	stamp := w.logs.Clock.UnixMilli() - 1000
	w.want(w.post(fmt.Sprintf(`{"records":[{"timestamp":%d,"value":1,"headers":[{"key":"a","value":"x"},{"key":"a","value_base64":"/w=="},{"key":"n"},{"key":"","value":""}]}]}`, stamp)), 200, `"offset":0`)
	r := stored(t, w.logs.Partition("t"))[0]
	if r.Timestamp != stamp || fmt.Sprintf("%q", r.Headers) != `[{"a" "x"} {"a" "\xff"} {"n" ""} {"" ""}]` || r.Headers[2].Value != nil || r.Headers[3].Value == nil {
		t.Errorf("%d, %q", r.Timestamp, r.Headers)
	}
	w.want(w.get(""), 200, `"headers":[{"key":"a","value":"x"},{"key":"a","value_base64":"/w=="},{"key":"n","value":null},{"key":"","value":""}]}]`)
	w.want(w.get("", header("Accept", binaryType)), 200, `"headers":[{"key":"a","value":"eA=="},{"key":"a","value":"/w=="},{"key":"n","value":null},{"key":"","value":""}]}]`)
	// A header's key is any bytes to Kafka's clients.
	b := record.NewBuilder(record.None)
	b.Add(stamp, nil, []byte("1"), []record.Header{{Key: "\xff"}})
	batch, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := partitiontest.AppendBatch(w.logs.Partition("t"), batch); err != nil {
		t.Fatal(err)
	}
	w.want(w.get("?offset=1"), 200, `"headers":[{"key_base64":"/w==","value":null}]`)
}

// Records with a key lie where Kafka's Java client puts them, the others of a request together, those of the next request
// elsewhere; what names its partition lies there.
func TestPartitions(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 6)
	var a struct {
		Offsets []struct{ Partition, Offset int32 }
	}
	w.post(`{"records":[{"key":"foobar"},{"key":"a-little-bit-long-string"},{"partition":5,"key":"foobar"},{"partition":0}]}`).read(t, &a)
	for i, want := range []int32{record.PartitionForKey([]byte("foobar"), 6), record.PartitionForKey([]byte("a-little-bit-long-string"), 6), 5, 0} {
		if a.Offsets[i].Partition != want {
			t.Errorf("record %d is in partition %d, want %d", i, a.Offsets[i].Partition, want)
		}
	}
	seen := map[int32]bool{}
	for range 6 {
		w.post(`{"records":[{"value":1},{"value":2},{"value":3}]}`).read(t, &a)
		seen[a.Offsets[0].Partition] = true
		for i, o := range a.Offsets[1:] {
			if o.Partition != a.Offsets[0].Partition || o.Offset != a.Offsets[i].Offset+1 {
				t.Errorf("records without a key: %v", a.Offsets)
			}
		}
	}
	if len(seen) != 6 {
		t.Errorf("six requests went to %d partitions", len(seen))
	}
	w.want(w.get(""), 400, "partition=0 to partition=5")
	w.want(w.get("?partition=5"), 200, `"partition":5`)
	w.want(w.get("?partition=6"), 404, `"error_code":3`)
}

// A large request is many batches in one order, and each record fares as it does alone.
func TestLargeRequests(t *testing.T) {
	w := begin(t)
	w.logs.Topic.MaxMessageBytes = 20_000
	w.open()
	var list []string
	for i := range 300 {
		size := 3000
		if i%100 == 50 {
			size = 20_000 // too large for the topic
		}
		list = append(list, fmt.Sprintf(`{"value":"%d %s"}`, i, strings.Repeat("x", size)))
	}
	r := w.post(`{"records":[` + strings.Join(list, ",") + `]}`)
	w.want(r, http.StatusMultiStatus, `{"error_code":10,"message":"append to t-0: `)
	var a struct {
		Offsets []struct {
			Offset *int64
			Code   int `json:"error_code"`
		}
	}
	r.read(t, &a)
	all := stored(t, w.logs.Partition("t"))
	good := 0
	for i, o := range a.Offsets {
		if i%100 == 50 {
			if o.Offset != nil || o.Code != 10 {
				t.Errorf("record %d: %+v", i, o)
			}
			continue
		}
		if o.Offset == nil || *o.Offset != int64(good) || !strings.HasPrefix(string(all[good].Value), fmt.Sprintf(`"%d x`, i)) {
			t.Fatalf("record %d is not at offset %d", i, good)
		}
		good++
	}
	if good != len(all) {
		t.Errorf("%d records in the log, %d told", len(all), good)
	}
	w.want(w.post(`{"records":[{"value":"`+strings.Repeat("x", 20_000)+`"}]}`), http.StatusRequestEntityTooLarge, `{"error_code":10,"message":"append to t-0: `)
}

// The answer holds what is durable and no more, and so does what is read.
func TestAnsweredAfterFlash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t).open()
		w.topic("t", 1)
		begun := func() chan reply {
			answered := make(chan reply, 1)
			go func() {
				r, err := w.try(http.MethodPost, "/topics/t/records", strings.NewReader(records(1, 1)))
				if err != nil {
					t.Error(err)
				}
				answered <- r
			}()
			synctest.Wait()
			return answered
		}
		w.logs.Journal.Hold()
		answered := begun()
		if len(answered) > 0 {
			t.Fatalf("answered before the commit: %+v", <-answered)
		}
		w.want(w.get(""), 200, `"high_watermark":0,"records":[],"next_offset":0}`)
		w.logs.Journal.Release()
		w.want(<-answered, 200, `"offset":0`)
		w.want(w.get(""), 200, `"high_watermark":1,"records":[{"offset":0`)

		w.logs.Journal.Fail(1)
		w.want(w.post(records(1, 1)), http.StatusInternalServerError, `"error_code":-1,"message":`)
		w.want(w.get("?offset=1"), 200, `"records":[]`)

		// A commit that takes too long is told as what it is, and its records are there when it is over.
		w.logs.Journal.Hold()
		now := time.Now()
		w.want(<-begun(), http.StatusGatewayTimeout, `{"error_code":7,"message":"not durable in time`)
		if took := time.Since(now); took != w.server.config.Commit {
			t.Errorf("told after %v", took)
		}
		w.logs.Journal.Release()
		synctest.Wait()
		w.want(w.get("?offset=1"), 200, `"records":[{"offset":1`)
	})
}

// readAll reads a partition to its end in answers of some size, and returns the offsets.
func readAll(t *testing.T, w *world, query string) (offsets []int64) {
	t.Helper()
	for next := int64(0); ; {
		var a consumed
		r := w.get(fmt.Sprintf("?offset=%d&%s", next, query))
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		r.read(t, &a)
		for _, one := range a.Records {
			offsets = append(offsets, one.Offset)
		}
		if a.Next < next || a.Next == next && next < a.High {
			t.Fatalf("from %d on to %d of %d", next, a.Next, a.High)
		}
		if next = a.Next; next == a.High {
			return offsets
		}
	}
}

// Answers of any size give every record once and in order, in every codec.
func TestReadingInPieces(t *testing.T) {
	for _, codec := range []record.Codec{record.None, record.Gzip, record.Zstd} {
		w := begin(t).open()
		w.topic("t", 1)
		want := 0
		for n := range 12 {
			b := record.NewBuilder(codec)
			for range n + 1 {
				b.Add(w.logs.Clock.UnixMilli(), []byte("key"), bytes.Repeat([]byte{byte(want)}, 100*n), nil)
				want++
			}
			batch, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := partitiontest.AppendBatch(w.logs.Partition("t"), batch); err != nil {
				t.Fatal(err)
			}
		}
		for _, query := range []string{"", "max_records=1", "max_records=7", "max_bytes=1", "max_bytes=3000", "max_bytes=100000&max_records=10000"} {
			got := readAll(t, w, query)
			for i, o := range got {
				if o != int64(i) {
					t.Fatalf("%v with %q: offset %d at place %d", codec, query, o, i)
				}
			}
			if len(got) != want {
				t.Errorf("%v with %q: %d records, want %d", codec, query, len(got), want)
			}
		}
	}
}

// A record that the memory for answers does not hold is told as such, and stepped over. One that fits it is given whole,
// whatever its size and max_bytes.
func TestLargeRecords(t *testing.T) {
	w := begin(t)
	w.logs.Topic.MaxMessageBytes = 16 << 20
	w.open()
	w.topic("t", 1)
	p := w.logs.Partition("t")
	for _, size := range []int{10, 1 << 20, 10, 1800 << 10, 10} {
		b := record.NewBuilder(record.None)
		b.Add(w.logs.Clock.UnixMilli(), nil, bytes.Repeat([]byte{0xfe}, size), nil)
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := partitiontest.AppendBatch(p, batch); err != nil {
			t.Fatal(err)
		}
	}
	var a consumed
	w.get("?offset=1&max_bytes=10", header("Accept", binaryType)).read(t, &a)
	if value, err := base64.StdEncoding.DecodeString(strings.Trim(string(a.Records[0].Value), `"`)); err != nil || len(value) != 1<<20 || a.Next != 2 {
		t.Errorf("%d bytes of a record, %v, next %d", len(value), err, a.Next)
	}
	a = consumed{}
	w.get("?offset=3").read(t, &a)
	if a.Records[0].Omitted == "" || a.Records[0].Value != nil || a.Next <= 3 {
		t.Errorf("%+v", a)
	}
	if got := readAll(t, w, ""); len(got) != 5 {
		t.Errorf("read %v", got)
	}
	// A batch that is larger than all there is for answers.
	b := record.NewBuilder(record.None)
	b.Add(w.logs.Clock.UnixMilli(), nil, make([]byte, 5<<20), nil)
	batch, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := partitiontest.AppendBatch(p, batch); err != nil {
		t.Fatal(err)
	}
	w.want(w.get("?offset=5"), http.StatusRequestEntityTooLarge, `"error_code":10`)
}

func TestWhereToBegin(t *testing.T) {
	w := begin(t)
	w.logs.Topic.SegmentBytes = 200
	w.open()
	w.topic("t", 1)
	p := w.logs.Partition("t")
	at := w.logs.Clock.UnixMilli() - 100_000
	for i := range 10 {
		w.want(w.post(fmt.Sprintf(`{"records":[{"value":%d,"timestamp":%d}]}`, i, at+int64(i)*1000)), 200, "")
	}
	for query, want := range map[string]string{
		"": `"records":[{"offset":0`, "?offset=earliest": `"records":[{"offset":0`, "?offset=4": `"records":[{"offset":4`, "?offset=latest": `"records":[],"next_offset":10`,
		"?offset=10": `"records":[],"next_offset":10`, fmt.Sprintf("?timestamp=%d", at+2500): `"records":[{"offset":3`, fmt.Sprintf("?timestamp=%d", at+50_000): `"records":[],"next_offset":10`,
		"?timestamp=1": `"records":[{"offset":0`, "?isolation=read_committed&offset=9": `"records":[{"offset":9`,
	} {
		w.want(w.get(query), 200, want)
	}
	w.want(w.get("?offset=11"), 416, `"log_start_offset":0,"high_watermark":10`)
	done := make(chan error, 1)
	p.DeleteRecords(5, func(_ int64, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.want(w.get("?offset=4"), 416, `"message":"offset 4 is out of range: t-0 has 5 to 10","log_start_offset":5,"high_watermark":10`)
	w.want(w.get(""), 200, `"records":[{"offset":5`)
}

// What a body takes is what is taken from the budget for it.
func TestABodyTakesWhatItCosts(t *testing.T) {
	const n = 1 << 20
	for name, value := range map[string]string{
		"text": `"` + strings.Repeat("x", n) + `"`, "escapes": `"` + strings.Repeat(`\n`, n/2) + `"`, "an array": "[1" + strings.Repeat(" ,\n1", n/4) + "]",
		"base64": `"` + strings.Repeat("AAAA", n/4) + `"`, "nothing": `null},{},{` + strings.Repeat("},{", itemsMax-4),
	} {
		for _, form := range []format{formatJSON, formatText, formatBinary} {
			raw := []byte(`{"records":[{"value":` + value + `}]}`)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			copied, err := body(bytes.NewReader(raw), int64(len(raw)), n)
			if err == nil {
				_, err = parse(form, copied)
			}
			runtime.ReadMemStats(&after)
			// What append grows out of is garbage, and no more than three times what stays.
			took, most := after.TotalAlloc-before.TotalAlloc, uint64(costOf(int64(len(raw))))
			switch {
			case name == "nothing":
				most *= 3
			case name == "escapes" && form == formatBinary: // the text is garbage before its bytes are made
				most += n
			}
			if took > most+16<<10 && err == nil {
				t.Errorf("%s as %s: %d bytes for a body of %d, taken were %d", name, types[form], took, len(raw), most)
			}
		}
	}
}

// Damage on the disk is stepped over, never served.
func TestDamageIsNeverServed(t *testing.T) {
	w := begin(t).open()
	w.topic("t", 1)
	for range 3 {
		w.want(w.post(records(1, 100)), 200, "")
	}
	w.want(w.get(""), 200, `"next_offset":3}`) // checked once, and good
	spoil(t, w, []byte("xxxx"), 1)
	a := w.get("")
	var c consumed
	a.read(t, &c)
	if a.status != 200 || strings.Contains(a.body, "Zxxx") {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := readAll(t, w, ""); fmt.Sprint(got) != "[0 2]" {
		t.Errorf("read %v", got)
	}
}
