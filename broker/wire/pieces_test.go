package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// inPieces reads a frame and puts the pieces together again.
func inPieces(frame []byte) (h Header, all kmsg.ProduceRequest, pieces int, err error) {
	r := bytes.NewReader(frame)
	buf := make([]byte, 4<<10)
	p, err := ReadPieces(len(frame), func(n int) ([]byte, error) {
		_, err := io.ReadFull(r, buf[:n])
		return buf[:n], err
	})
	if err != nil {
		return h, all, 0, err
	}
	for {
		n, err := p.Next()
		if err != nil || n < 0 {
			if err == nil && r.Len() > 0 {
				err = fmt.Errorf("%d bytes left", r.Len())
			}
			return p.Header, all, pieces, err
		}
		if n > r.Len() {
			return h, all, 0, fmt.Errorf("%d bytes of records, %d left", n, r.Len())
		}
		records := make([]byte, n)
		if _, err := io.ReadFull(r, records); err != nil {
			return h, all, 0, err
		}
		pieces++
		one := p.Piece(records)
		topics := all.Topics
		if all = *one; len(topics) > 0 && topics[len(topics)-1].Topic == one.Topics[0].Topic && topics[len(topics)-1].TopicID == one.Topics[0].TopicID {
			last := &topics[len(topics)-1]
			last.Partitions = append(last.Partitions, one.Topics[0].Partitions...)
			all.Topics = topics
		} else {
			all.Topics = append(topics, one.Topics...)
		}
	}
}

// wide is a Produce request with some topics and partitions.
func wide(random *rand.Rand, version int16) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, int16(random.IntN(3)-1), random.Int32()
	if random.IntN(2) == 0 {
		id := fmt.Sprint("transaction-", random.IntN(100))
		req.TransactionID = &id
	}
	for i := range random.IntN(5) {
		t := kmsg.ProduceRequestTopic{}
		if version >= 13 {
			t.TopicID[3] = byte(i + 1)
		} else {
			t.Topic = fmt.Sprint("topic-", i)
		}
		for j := range 1 + random.IntN(40) {
			t.Partitions = append(t.Partitions, kmsg.ProduceRequestTopicPartition{
				Partition: int32(j), Records: bytes.Repeat([]byte{byte(j)}, random.IntN(10_000)),
			})
		}
		req.Topics = append(req.Topics, t)
	}
	return req
}

func TestPiecesAreTheRequest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		for version := int16(3); version <= 13; version++ {
			req := wide(random, version)
			frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, req, 77)[PrefixSize:]
			h, got, _, err := inPieces(frame)
			if err != nil || h != (Header{0, version, 77, "me"}) {
				t.Fatalf("v%d: %+v, %v", version, h, err)
			}
			if !reflect.DeepEqual(&got, req) && len(req.Topics) > 0 {
				t.Fatalf("v%d: %d topics came of %d, or others", version, len(got.Topics), len(req.Topics))
			}
			if len(frame) > 200 {
				for range 5 {
					if _, _, _, err := inPieces(frame[:random.IntN(len(frame))]); err == nil {
						t.Fatalf("v%d: a frame cut short is read", version)
					}
				}
			}
		}
	}
}

func TestPiecesAreBounded(t *testing.T) {
	req := kmsg.NewPtrProduceRequest()
	req.Version = 9
	req.Topics = []kmsg.ProduceRequestTopic{{Topic: "t", Partitions: make([]kmsg.ProduceRequestTopicPartition, piecesMax+1)}}
	frame := kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)[PrefixSize:]
	if _, _, n, err := inPieces(frame); !errors.Is(err, ErrFrameTooLarge) || n > piecesMax {
		t.Errorf("%d pieces, %v", n, err)
	}
}

func TestAnswersToPiecesAreOne(t *testing.T) {
	for version := int16(3); version <= 13; version++ {
		p := &Pieces{Header: Header{Version: version, Correlation: 5}, flexible: version >= 9}
		want := kmsg.NewPtrProduceResponse()
		want.Version = version
		var parts []*Response
		for i := range 6 {
			part := kmsg.NewPtrProduceResponse()
			topic := kmsg.NewProduceResponseTopic()
			if version >= 13 {
				topic.TopicID[0] = byte(i / 2)
			} else {
				topic.Topic = fmt.Sprint(i / 2)
			}
			partition := kmsg.NewProduceResponseTopicPartition()
			partition.Partition, partition.BaseOffset, partition.ErrorCode = int32(i), int64(i), int16(i)
			topic.Partitions = append(topic.Partitions, partition)
			part.Topics = append(part.Topics, topic)
			if i%2 == 0 {
				want.Topics = append(want.Topics, topic)
			} else {
				last := &want.Topics[len(want.Topics)-1]
				last.Partitions = append(append([]kmsg.ProduceResponseTopicPartition(nil), last.Partitions...), partition)
			}
			parts = append(parts, Encode(p.Header, part))
		}
		wanted, err := Encode(p.Header, want).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := p.Merge(parts)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := merged.Append(nil); err != nil || !bytes.Equal(got, wanted) {
			t.Errorf("v%d: %x, want %x, %v", version, got, wanted, err)
		}
	}
	p := &Pieces{}
	if r, err := p.Merge([]*Response{{Close: true}}); err != nil || !r.Close {
		t.Errorf("%+v, %v", r, err)
	}
}

// FuzzPieces: whatever comes, little is asked for at a time and no more than there is, and what Parse takes is read the
// same in pieces.
func FuzzPieces(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for version := int16(3); version <= 13; version++ {
		f.Add(kmsg.NewRequestFormatter(kmsg.FormatterClientID("c")).AppendRequest(nil, wide(random, version), 3)[PrefixSize:])
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		left := len(frame)
		p, err := ReadPieces(len(frame), func(n int) ([]byte, error) {
			if n > 1024 || n > left {
				t.Fatalf("%d bytes asked for, %d left", n, left)
			}
			left -= n
			return frame[len(frame)-left-n : len(frame)-left], nil
		})
		pieces := 0
		for err == nil {
			var n int
			if n, err = p.Next(); err != nil || n < 0 {
				break
			}
			if n > left {
				t.Fatalf("records of %d bytes, %d left", n, left)
			}
			left -= n
			if pieces++; pieces > piecesMax {
				t.Fatal("too many pieces")
			}
			p.Piece(nil)
		}
		h, body, want := Parse(frame)
		if want != nil || h.Key != keyProduce {
			return
		}
		there := 0
		for _, topic := range body.(*kmsg.ProduceRequest).Topics {
			there += len(topic.Partitions)
		}
		if err == nil && pieces != there {
			t.Fatalf("%d pieces, %d partitions", pieces, there)
		}
	})
}
