package wire

import (
	"bytes"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// bytesSpan is a span that is not in a file.
type bytesSpan struct {
	p        []byte
	err      error
	released int
}

func (s *bytesSpan) Len() int                          { return len(s.p) }
func (s *bytesSpan) Append(dst []byte) ([]byte, error) { return append(dst, s.p...), s.err }
func (s *bytesSpan) File() (uintptr, int64, bool)      { return 0, 0, false }
func (s *bytesSpan) Release()                          { s.released++ }

func fetchOf(spans ...Span) *Fetch {
	return &Fetch{
		SessionID: 77,
		Topics: []FetchTopic{
			{Name: "first", ID: [16]byte{1, 2}, Partitions: []FetchPartition{
				{Index: 0, High: 10, Stable: 9, Start: 1, Records: spans[0]},
				{Index: 1, High: 20, Stable: -1, Start: 2, NoAborted: true},
				{Index: 2, Code: 6, High: -1, Stable: -1, Start: -1, Leader: &Leader{ID: 3, Epoch: 4}},
			}},
			{Name: "second", ID: [16]byte{3}, Partitions: []FetchPartition{
				{Index: 5, High: 7, Records: spans[1]},
				{Index: 6, High: 7, Diverging: &EpochEnd{Epoch: 2, End: 300}},
			}},
		},
	}
}

func TestFetchIsWhatKmsgReads(t *testing.T) {
	a, b := bytes.Repeat([]byte("a"), 300), []byte("bb")
	for version := int16(4); version <= 18; version++ {
		one, two := &bytesSpan{p: a}, &bytesSpan{p: b}
		r := EncodeFetch(Header{Key: 1, Version: version, Correlation: 9}, fetchOf(one, two))
		p, err := r.Append(nil)
		if err != nil || len(p) != r.Size() {
			t.Fatalf("v%d: %d bytes of %d, %v", version, len(p), r.Size(), err)
		}
		head := PrefixSize + 4
		if version >= fetchFlexible {
			head++
		}
		resp := kmsg.NewPtrFetchResponse()
		resp.SetVersion(version)
		if err := resp.ReadFrom(p[head:]); err != nil {
			t.Fatalf("v%d: %v of %x", version, err, p)
		}
		// kmsg's own bytes of what it read are ours.
		if again := resp.AppendTo(nil); !bytes.Equal(again, p[head:]) {
			t.Errorf("v%d:\n%x, kmsg writes\n%x", version, p[head:], again)
		}
		first, second := resp.Topics[0].Partitions, resp.Topics[1].Partitions
		if !bytes.Equal(first[0].RecordBatches, a) || !bytes.Equal(second[0].RecordBatches, b) || len(first[1].RecordBatches) != 0 {
			t.Errorf("v%d: records are not what was put in", version)
		}
		if first[0].HighWatermark != 10 || first[0].AbortedTransactions == nil || first[1].AbortedTransactions != nil || first[2].ErrorCode != 6 {
			t.Errorf("v%d: %+v", version, first)
		}
		if version >= 7 && resp.SessionID != 77 {
			t.Errorf("v%d: session %d", version, resp.SessionID)
		}
		if version >= 12 && (first[2].CurrentLeader.LeaderID != 3 || second[1].DivergingEpoch.EndOffset != 300) {
			t.Errorf("v%d: tagged fields %+v %+v", version, first[2].CurrentLeader, second[1].DivergingEpoch)
		}
		if version >= 13 && resp.Topics[0].TopicID != [16]byte{1, 2} || version < 13 && resp.Topics[1].Topic != "second" {
			t.Errorf("v%d: topics %+v", version, resp.Topics)
		}
		then := 0
		r.Then = func() { then++ }
		r.Release()
		r.Release()
		if one.released != 1 || two.released != 1 || then != 1 {
			t.Errorf("v%d: released %d and %d times, then %d", version, one.released, two.released, then)
		}
	}
}

func TestPartsStopAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	r := EncodeFetch(Header{Key: 1, Version: 12}, fetchOf(&bytesSpan{p: []byte("x"), err: broken}, &bytesSpan{p: []byte("y")}))
	defer r.Release()
	if _, err := r.Append(nil); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

func TestEmptyResponseHasNoParts(t *testing.T) {
	r := &Response{Close: true}
	if err := r.Parts(func([]byte, Span) error { return errors.New("a part") }); err != nil || r.Size() != 0 {
		t.Errorf("%v, %d bytes", err, r.Size())
	}
}
