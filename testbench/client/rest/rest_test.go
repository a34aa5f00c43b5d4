// Package rest drives the real millrace process over HTTP, with nothing but net/http and encoding/json, beside Kafka and
// MQTT clients that write and read the same records. It has tests only.
package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	door "millrace/broker/rest"
	"millrace/broker/rest/resttest"
	"millrace/testbench/process"
)

func TestMain(m *testing.M) { os.Exit(process.Main(m)) }

const (
	patience   = time.Minute
	jsonType   = "application/json"
	textType   = "application/vnd.kafka.text.v2+json"
	binaryType = "application/vnd.kafka.binary.v2+json"
)

// client is one user of the HTTP door.
type client struct {
	t    *testing.T
	http *http.Client
	base string // "http://host:port"
	// change is done to every request.
	change func(*http.Request)
}

func open(t *testing.T, p *process.Process) *client {
	return &client{t: t, http: http.DefaultClient, base: "http://" + p.HTTP}
}

// do sends a request, holds the answer against the description, and reads it into the value, unless that is nil.
func (c *client) do(method, topic, query, media string, send, into any) int {
	c.t.Helper()
	var body io.Reader
	if send != nil {
		text, err := json.Marshal(send)
		if err != nil {
			c.t.Fatal(err)
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.base+"/topics/"+topic+"/records"+query, body)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", media)
	r.Header.Set("Accept", media)
	if c.change != nil {
		c.change(r)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		c.t.Fatal(err)
	}
	resttest.Read(c.t, door.OpenAPI()).Answer(method, "/topics/{topic}/records", resp.StatusCode, resp.Header, text)
	if into != nil {
		if err := json.Unmarshal(text, into); err != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
	}
	return resp.StatusCode
}

// written is where a record is.
type written struct {
	Partition int32
	Offset    int64
}

type object = map[string]any

// post writes records and returns where each is.
func (c *client) post(topic, media string, records ...object) []written {
	c.t.Helper()
	var out struct{ Offsets []written }
	if status := c.do(http.MethodPost, topic, "", media, object{"records": records}, &out); status != http.StatusOK || len(out.Offsets) != len(records) {
		c.t.Fatalf("POST: %d, %d of %d", status, len(out.Offsets), len(records))
	}
	return out.Offsets
}

// page is an answer to a GET.
type page struct {
	High    int64 `json:"high_watermark"`
	Next    int64 `json:"next_offset"`
	Records []struct {
		Offset, Timestamp int64
		Key, Value        any
		Headers           []struct{ Key, Value string }
	}
}

func (c *client) get(topic, query, media string) (p page) {
	c.t.Helper()
	if status := c.do(http.MethodGet, topic, query, media, nil, &p); status != http.StatusOK {
		c.t.Fatalf("GET %s: %d", query, status)
	}
	return p
}

// waits returns when somebody waits for records.
func (c *client) waits() {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		resp, err := c.http.Get(c.base + "/metrics")
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			c.t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\nmillrace_purgatory_size 1\n")) {
			return
		}
	}
	c.t.Fatal("nobody waits")
}

func kafka(t *testing.T, address string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// consume reads n records of a topic from its start.
func consume(t *testing.T, address, topic string, n int) (all []*kgo.Record) {
	t.Helper()
	c := kafka(t, address, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(all) < n {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("after %d of %d records: %v", len(all), n, err)
		}
		all = append(all, f.Records()...)
	}
	return all
}

const partitions = 6

func create(t *testing.T, address, topic string) {
	t.Helper()
	if _, err := kadm.NewClient(kafka(t, address)).CreateTopic(t.Context(), partitions, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
}

// What is written by HTTP a Kafka client reads, byte for byte, in order, where its own partitioner would have put it.
func TestFromHTTPToKafka(t *testing.T) {
	p := process.StartHTTP(t, "")
	create(t, p.Kafka, "t")
	c := open(t, p)
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[int32][]string{} // key and value in the order of each partition
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	n := 0
	for range 50 {
		var records []object
		var pairs []string
		for range 1 + rnd.IntN(40) {
			key, value := make([]byte, 1+rnd.IntN(20)), make([]byte, rnd.IntN(2000))
			for _, p := range [][]byte{key, value} {
				for i := range p {
					p[i] = byte(rnd.Uint32())
				}
			}
			records = append(records, object{"key": key, "value": value, "timestamp": 1_790_000_000_000 + int64(n), "headers": []object{{"key": "n", "value": []byte(fmt.Sprint(n))}}})
			pairs = append(pairs, string(key)+" "+string(value))
			n++
		}
		for i, w := range c.post("t", binaryType, records...) {
			if at := partitioner.Partition(&kgo.Record{Topic: "t", Key: records[i]["key"].([]byte)}, partitions); at != int(w.Partition) {
				t.Fatalf("the key %x is in partition %d, a Kafka client looks for it in %d", records[i]["key"], w.Partition, at)
			}
			if w.Offset != int64(len(want[w.Partition])) {
				t.Fatalf("offset %d in partition %d, want %d", w.Offset, w.Partition, len(want[w.Partition]))
			}
			want[w.Partition] = append(want[w.Partition], pairs[i])
		}
	}
	for _, r := range consume(t, p.Kafka, "t", n) {
		if got := string(r.Key) + " " + string(r.Value); got != want[r.Partition][r.Offset] || len(r.Headers) != 1 {
			t.Fatalf("partition %d, offset %d: %q", r.Partition, r.Offset, got)
		}
		if at, err := json.Number(r.Headers[0].Value).Int64(); err != nil || r.Timestamp.UnixMilli() != 1_790_000_000_000+at {
			t.Fatalf("%v of %s", r.Timestamp, r.Headers[0].Value)
		}
	}
}

// What a Kafka client writes, in any codec, is read by HTTP, once and in order, in pages.
func TestFromKafkaToHTTP(t *testing.T) {
	p := process.StartHTTP(t, "")
	c := open(t, p)
	const each = 300
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	for name, codec := range codecs {
		w := kafka(t, p.Kafka, kgo.ProducerBatchCompression(codec), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(name))
		var all []*kgo.Record
		for i := range each {
			all = append(all, &kgo.Record{Key: fmt.Appendf(nil, "key %d", i), Value: bytes.Repeat([]byte{byte(i)}, 10*i), Headers: []kgo.RecordHeader{{Key: "codec", Value: []byte(name)}}})
		}
		if err := w.ProduceSync(t.Context(), all...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		var next int64
		for next < each {
			got := c.get(name, fmt.Sprintf("?offset=%d&max_bytes=50000", next), binaryType)
			for _, r := range got.Records {
				s := all[next]
				key, value, header := decode(t, r.Key), decode(t, r.Value), decode(t, r.Headers[0].Value)
				if r.Offset != next || key != string(s.Key) || value != string(s.Value) || header != name {
					t.Fatalf("%s: offset %d instead of %d: %q, %d bytes, %q", name, r.Offset, next, key, len(value), header)
				}
				next++
			}
			if got.Next != next || len(got.Records) == 0 {
				t.Fatalf("%s: to be gone on with at %d, read up to %d", name, got.Next, next)
			}
		}
	}
}

func decode(t *testing.T, v any) string {
	t.Helper()
	s, err := base64.StdEncoding.DecodeString(v.(string))
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}

// With the default memory the largest record of a topic with the default settings goes in and out, in base64 too.
func TestTheLargestRecord(t *testing.T) {
	p := process.StartHTTP(t, "")
	c := open(t, p)
	value := bytes.Repeat([]byte{0xfe, 1}, (1<<20-100)/2)
	c.post("t", binaryType, object{"value": value})
	c.post("t", binaryType, object{"value": value})
	for at := range int64(2) {
		if got := c.get("t", fmt.Sprintf("?offset=%d&max_records=1", at), binaryType); decode(t, got.Records[0].Value) != string(value) {
			t.Errorf("the record at %d is another", at)
		}
	}
}

// What was acknowledged by HTTP is there after kill -9, every time.
func TestAcknowledgedOverKill9(t *testing.T) {
	p := process.StartHTTP(t, "")
	c := open(t, p)
	n := 0
	for range 5 {
		for range 20 {
			if w := c.post("t", jsonType, object{"key": "k", "value": n}); w[0].Offset != int64(n) {
				t.Fatalf("record %d is at %d", n, w[0].Offset)
			}
			n++
		}
		p.Kill()
		http.DefaultClient.CloseIdleConnections()
		p.Start()
	}
	got := c.get("t", "?max_records=10000", jsonType)
	for i, r := range got.Records {
		if r.Value != float64(i) || r.Offset != int64(i) || r.Key != "k" {
			t.Fatalf("record %d: %+v", i, r)
		}
	}
	if len(got.Records) != n {
		t.Errorf("%d of %d records", len(got.Records), n)
	}
}

// A reader that waits is woken by what an MQTT client publishes, and what it reads is the message.
func TestAWaitEndedByMQTT(t *testing.T) {
	p := process.StartHTTP(t, "")
	c := open(t, p)
	m := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + p.MQTT).SetClientID("m"))
	finished := func(token paho.Token) {
		t.Helper()
		if !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	finished(m.Connect())
	defer m.Disconnect(100)
	finished(m.Publish("plant/a", 1, false, "0"))
	at := c.get("mqtt", "", textType).Next
	for i, payload := range []string{`{"t":21.5}`, "wörter", "null"} {
		got := make(chan page, 1)
		go func() { got <- c.get("mqtt", fmt.Sprintf("?offset=%d&timeout=60000", at), textType) }()
		c.waits()
		finished(m.Publish("plant/b", 1, false, payload))
		begun := time.Now()
		r := <-got
		if len(r.Records) != 1 || r.Records[0].Key != "plant/b" || r.Records[0].Value != payload {
			t.Fatalf("message %d: %+v", i, r)
		}
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("woken after %v", took)
		}
		at = r.Next
	}
	// As JSON where it is.
	if r := c.get("mqtt", fmt.Sprintf("?offset=%d&max_records=1", at-3), jsonType); fmt.Sprint(r.Records[0].Value) != "map[t:21.5]" {
		t.Errorf("%+v", r)
	}
}
