package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/record"
	"millrace/testbench/client/kafka"
	"millrace/testbench/lane"
	"millrace/testbench/process"
)

// batch is what the header of one says.
type batch struct {
	codec record.Codec
	size  int // bytes, with the header
	count int // of records
}

// batchesOf reads the headers of all batches of records in partition 0 of a topic, as the server has them.
func batchesOf(t *testing.T, server, topic string) (list []batch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(server))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	about := kmsg.NewPtrMetadataRequest()
	one := kmsg.NewMetadataRequestTopic()
	one.Topic = &topic
	about.Topics = append(about.Topics, one)
	meta, err := about.RequestWith(ctx, client)
	if err != nil || len(meta.Topics) != 1 || meta.Topics[0].ErrorCode != 0 {
		t.Fatalf("%s: %+v, %v", topic, meta, err)
	}
	for next := int64(0); ; {
		fetch := kmsg.NewPtrFetchRequest()
		fetch.ReplicaID, fetch.MaxBytes, fetch.SessionEpoch = -1, 8<<20, -1
		ft, fp := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
		ft.Topic, ft.TopicID = topic, meta.Topics[0].TopicID
		fp.FetchOffset, fp.PartitionMaxBytes = next, 8<<20
		ft.Partitions = append(ft.Partitions, fp)
		fetch.Topics = append(fetch.Topics, ft)
		answer, err := fetch.RequestWith(ctx, client)
		if err == nil {
			err = kerr.ErrorForCode(answer.ErrorCode)
		}
		if err != nil || len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
			t.Fatalf("fetch %s from %d: %+v, %v", topic, next, answer, err)
		}
		p := answer.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			t.Fatalf("fetch %s from %d: %v", topic, next, err)
		}
		const prefix = 12 // first offset and length
		raw, from := p.RecordBatches, next
		for len(raw) >= prefix {
			var b kmsg.RecordBatch
			size := prefix + int(int32(uint32(raw[8])<<24|uint32(raw[9])<<16|uint32(raw[10])<<8|uint32(raw[11])))
			if size < prefix || size > len(raw) { // the last one may be cut
				break
			}
			if err := b.ReadFrom(raw[:size]); err != nil {
				t.Fatal(err)
			}
			raw = raw[size:]
			if next = b.FirstOffset + int64(b.LastOffsetDelta) + 1; b.Attributes&0x20 == 0 { // no marker
				list = append(list, batch{record.Codec(b.Attributes & 7), size, int(b.NumRecords)})
			}
		}
		if next == from || next >= p.HighWatermark {
			return list
		}
	}
}

// Records that came to the board in small batches go up in large ones, compressed as the link is told: with zstd where
// nothing is said.
func TestSmallBatchesBecomeFewCompressedOnes(t *testing.T) {
	t.Parallel()
	c := kafka.Shared(t)
	for _, tt := range []struct {
		name, setting string
		want          record.Codec
	}{{"asitis", "", record.Zstd}, {"astold", `compression.type = "lz4"`, record.LZ4}} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 300
			b := stationIn(t, c, "packed"+tt.name, filepath.Join(t.TempDir(), "data"), tt.setting)
			b.make("a", nil)
			process.Run(t, "upstream", "pause", "hq", "--data", b.dir)
			b.readings("a", n)
			process.Run(t, "upstream", "resume", "hq", "--data", b.dir)
			b.delivered()

			sum := func(list []batch) (bytes, records int) {
				for _, x := range list {
					bytes, records = bytes+x.size, records+x.count
				}
				return bytes, records
			}
			local, far := batchesOf(t, b.Kafka, b.topic("a")), batchesOf(t, c.Direct()[0], b.topic("a"))
			localBytes, localRecords := sum(local)
			farBytes, farRecords := sum(far)
			t.Logf("%d batches of %d bytes on the board, %d of %d bytes upstream", len(local), localBytes, len(far), farBytes)
			if localRecords != n || len(local) != n {
				t.Fatalf("the board has %d records in %d batches, want %d in as many: nothing is proved", localRecords, len(local), n)
			}
			for _, x := range local {
				if x.codec != record.Gzip {
					t.Fatalf("a batch on the board has codec %v", x.codec)
				}
			}
			if farRecords != n || len(far) > 3 || farBytes > localBytes/4 {
				t.Errorf("upstream are %d records in %d batches, %d bytes; want %d in 3 at most, of a quarter of the bytes", farRecords, len(far), farBytes, n)
			}
			for _, x := range far {
				if x.codec != tt.want {
					t.Errorf("a batch upstream has codec %v, want %v", x.codec, tt.want)
				}
			}
			if _, err := mirrored(logOf(t, []string{b.topic("a")}, b.Kafka), logOf(t, []string{b.topic("a")}, c.Direct()...), func(s string) string { return s }, 0, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// readings writes n records of JSON, each in a batch of its own, compressed with gzip.
func (s *station) readings(topic string, n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lane.Patience)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.ProducerBatchMaxBytes(1024))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	errs := make(chan error, n)
	for i := range n {
		value, err := json.Marshal(map[string]any{
			"site": "north", "line": i % 4, "machine": fmt.Sprintf("press-%02d", i%16), "unit": "Cel", "quality": "good", "temperature": 20 + float64(i*37%100)/10,
			"pressure": 1013.25, "remark": "a reading as many a gateway sends it, with names in every one, so that each takes some six hundred bytes as it comes, " +
				"and nobody thinks of those who pay for the link; what is said again and again in each record costs nothing where many are compressed together, " +
				"and as much as ever where each is compressed by itself, which is why batches are made anew on their way up to the company's own cluster",
			"at": time.UnixMilli(1_700_000_000_000 + int64(i)).UTC().Format(time.RFC3339Nano),
		})
		if err != nil {
			s.t.Fatal(err)
		}
		client.Produce(ctx, &kgo.Record{Topic: s.topic(topic), Value: value}, func(_ *kgo.Record, err error) { errs <- err })
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
