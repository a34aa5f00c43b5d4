package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/broker/catalog"
	"millrace/broker/partition"
	"millrace/broker/record"
)

// producing is a Produce request of one batch for each of the partitions 0 and up.
func producing(t *catalog.Topic, acks int16, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 1000
	out := kmsg.NewProduceRequestTopic()
	out.Topic, out.TopicID = t.Name, t.ID
	for i, b := range batches {
		out.Partitions = append(out.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i), Records: b})
	}
	req.Topics = append(req.Topics, out)
	return req
}

func TestProduceInEveryVersion(t *testing.T) {
	versions(t, 0, func(t *testing.T, version int16) {
		b := open(t, nil)
		topic := b.topic("t", 2)
		b.log(topic, 1).end, b.log(topic, 1).high = 40, 40
		resp := ask[*kmsg.ProduceResponse](b, producing(topic, -1, batch(t, record.None, "a", "b"), batch(t, record.None, "c")), version)
		p := resp.Topics[0].Partitions
		if p[0].ErrorCode != 0 || p[0].BaseOffset != 0 || p[1].ErrorCode != 0 || p[1].BaseOffset != 40 || p[0].LogAppendTime != -1 {
			t.Errorf("%+v", p)
		}
		if b.log(topic, 0).High() != 2 {
			t.Errorf("high watermark %d", b.log(topic, 0).High())
		}
	})
}

func TestProduceAnswersWhenAllIsDurable(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 2)
	first, second := b.log(topic, 0), b.log(topic, 1)
	first.hold, second.hold = true, true
	p := b.begin(producing(topic, 1, batch(t, record.None, "a"), batch(t, record.None, "b")), 13)
	p.waits()
	second.commit()
	p.waits()
	first.commit()
	if resp := p.response().(*kmsg.ProduceResponse); resp.Topics[0].Partitions[0].ErrorCode != 0 || resp.Topics[0].TopicID != topic.ID {
		t.Errorf("%+v", resp)
	}
}

func TestProduceTimesOut(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 2)
	slow := b.log(topic, 1)
	slow.hold = true
	p := b.begin(producing(topic, -1, batch(t, record.None, "a"), batch(t, record.None, "b")), 12)
	b.pass(999)
	p.waits()
	b.pass(2)
	got := p.response().(*kmsg.ProduceResponse).Topics[0].Partitions
	if got[0].ErrorCode != 0 || got[1].ErrorCode != codeRequestTimedOut {
		t.Errorf("%+v", got)
	}
	slow.commit() // no second answer, and nothing that still waits
	p.waits()
}

func TestProduceWithoutRoomToWaitIsAnsweredAllTheSame(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 1)
	log := b.log(topic, 0)
	log.hold = true
	b.waits.Close()
	p := b.begin(producing(topic, -1, batch(t, record.None, "a")), 12)
	p.waits()
	log.commit()
	if got := p.response().(*kmsg.ProduceResponse).Topics[0].Partitions[0]; got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
}

func TestProduceWithoutAcks(t *testing.T) {
	b := open(t, nil)
	topic := b.topic("t", 1)
	log := b.log(topic, 0)
	if r := b.begin(producing(topic, 0, batch(t, record.None, "a")), 9).raw(); r != nil {
		t.Error("acks 0 is answered")
	}
	if log.High() != 1 {
		t.Error("acks 0 is not appended")
	}
	log.fail = partition.ErrTooLarge
	if r := b.begin(producing(topic, 0, batch(t, record.None, "a")), 9).raw(); r == nil || !r.Close || r.Size() != 0 {
		t.Error("a refused batch without acks does not end the connection")
	}
}

func TestProduceRefuses(t *testing.T) {
	one := func(t *testing.T) record.Batch { return batch(t, record.None, "a") }
	for _, tt := range []struct {
		name    string
		version int16
		change  func(t *testing.T, b *board, req *kmsg.ProduceRequest)
		code    int16
	}{
		{"unknown topic", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Topics[0].Topic = "no" }, codeUnknownTopicOrPartition},
		{"unknown topic id", 13, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Topics[0].TopicID[3]++ }, codeUnknownTopicID},
		{"unknown partition", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = 9 }, codeUnknownTopicOrPartition},
		{"negative partition", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = -1 }, codeUnknownTopicOrPartition},
		{"acks 2", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Acks = 2 }, codeInvalidRequiredAcks},
		{"acks -2", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Acks = -2 }, codeInvalidRequiredAcks},
		{"null records", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Records = nil }, codeInvalidRecord},
		{"garbage", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) {
			r.Topics[0].Partitions[0].Records = []byte("garbage")
		}, codeCorruptMessage},
		{"half a batch", 12, func(t *testing.T, _ *board, r *kmsg.ProduceRequest) {
			r.Topics[0].Partitions[0].Records = one(t)[:len(one(t))-3]
		}, codeCorruptMessage},
		{"two batches", 12, func(t *testing.T, _ *board, r *kmsg.ProduceRequest) {
			r.Topics[0].Partitions[0].Records = append(one(t), one(t)...)
		}, codeInvalidRecord},
		{"magic 1", 12, func(t *testing.T, _ *board, r *kmsg.ProduceRequest) {
			p := one(t)
			p[16] = 1
			r.Topics[0].Partitions[0].Records = p
		}, codeUnsupportedFormat},
		{"zstd before v7", 6, func(t *testing.T, _ *board, r *kmsg.ProduceRequest) {
			r.Topics[0].Partitions[0].Records = batch(t, record.Zstd, strings.Repeat("a", 1000))
		}, codeUnsupportedCompression},
		{"transactional batch", 12, func(t *testing.T, _ *board, r *kmsg.ProduceRequest) {
			p := one(t)
			p.SetProducer(1, 0, 0, true)
			r.Topics[0].Partitions[0].Records = p
		}, codeInvalidTxnState},
		{"transactional id", 12, func(_ *testing.T, _ *board, r *kmsg.ProduceRequest) { r.TransactionID = text("x") }, codeInvalidTxnState},
		{"the broker's own topic", 12, func(_ *testing.T, b *board, r *kmsg.ProduceRequest) {
			r.Topics[0].Topic = b.topic("__consumer_offsets", 1).Name
		}, codeInvalidTopic},
		{"disk full", 12, func(_ *testing.T, b *board, _ *kmsg.ProduceRequest) {
			b.log(b.Image().Topic("t"), 0).fail = partition.ErrDiskFull
		}, codeKafkaStorage},
		{"larger than the topic takes", 12, func(_ *testing.T, b *board, _ *kmsg.ProduceRequest) {
			b.log(b.Image().Topic("t"), 0).fail = partition.ErrTooLarge
		}, codeMessageTooLarge},
		{"decompresses to more than is taken", 12, func(_ *testing.T, b *board, _ *kmsg.ProduceRequest) {
			b.log(b.Image().Topic("t"), 0).fail = record.ErrTooLarge
		}, codeMessageTooLarge},
		{"unforeseen", 12, func(_ *testing.T, b *board, _ *kmsg.ProduceRequest) {
			b.log(b.Image().Topic("t"), 0).fail = errors.New("?")
		}, codeUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := open(t, nil)
			req := producing(b.topic("t", 1), -1, one(t))
			tt.change(t, b, req)
			got := ask[*kmsg.ProduceResponse](b, req, tt.version).Topics[0].Partitions[0]
			if got.ErrorCode != tt.code || got.BaseOffset != -1 {
				t.Errorf("code %d, offset %d; want %d", got.ErrorCode, got.BaseOffset, tt.code)
			}
			if b.log(b.Image().Topic("t"), 0).End() != 0 {
				t.Error("it was appended")
			}
		})
	}
}

func TestProduceToAFollowerTellsTheLeader(t *testing.T) {
	b := open(t, nil)
	b.do(catalog.CreateTopic{Name: "far", ID: catalog.NewTopicID(), Partitions: []catalog.PartitionState{leadBy([]int32{other})}})
	resp := ask[*kmsg.ProduceResponse](b, producing(b.Image().Topic("far"), 1, batch(t, record.None, "a")), 12)
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != codeNotLeader || p.CurrentLeader.LeaderID != other || len(resp.Brokers) != 1 || resp.Brokers[0].Host != "board-2" {
		t.Errorf("%+v %+v", p, resp.Brokers)
	}
}
