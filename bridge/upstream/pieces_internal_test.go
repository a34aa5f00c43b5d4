package upstream

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"millrace/broker/record"
)

// pages is a log of batches in memory.
type pages struct {
	Partition
	batches []record.Batch
}

func (p *pages) High() int64     { return p.batches[len(p.batches)-1].NextOffset() }
func (p *pages) Start() int64    { return 0 }
func (p *pages) Compacted() bool { return false }

func (p *pages) ReadBatches(dst []byte, offset int64, most int) ([]byte, error) {
	before := len(dst)
	for _, b := range p.batches {
		if b.NextOffset() > offset && (len(dst) == before || len(dst)-before+len(b) <= most) {
			dst = append(dst, b...)
		}
	}
	return dst, nil
}

type anyTime struct{ Clock }

func (anyTime) Export(_ [16]byte, _ int32, _, at int64) (int64, bool) { return at, false }

// A transaction of the ends of many large batches holds about what it sends, not the batches, and each record has its own bytes.
func TestATransactionHoldsWhatItSends(t *testing.T) {
	const parts, each, size, first = 200, 32, 1000, 31
	rng := rand.New(rand.NewPCG(1, 2))
	f := filler{cfg: &Config{TransactionBytes: 512 << 10}, clock: anyTime{}}
	for round, from := range []int64{first, 0, first} {
		f.reset()
		var want [][]byte
		for i := range parts {
			b := record.NewBuilder(record.None)
			var values [][]byte
			for range each {
				v := make([]byte, size)
				for k := range v {
					v[k] = byte(rng.Uint32())
				}
				values = append(values, v)
				b.Add(1, nil, v, nil)
			}
			built, err := b.Build()
			if err != nil {
				t.Fatal(err)
			}
			d := &draft{part: &part{index: int32(i)}, to: "a", mine: parts, have: parts, log: &pages{batches: []record.Batch{built}}, end: 1 << 62}
			d.cursor.Next = from
			if err := f.fill(d, f.cfg.TransactionBytes-f.bytes); err != nil {
				t.Fatal(err)
			}
			want = append(want, values[from:from+int64(d.records)]...)
		}
		if len(f.records) != len(want) || len(want) < parts {
			t.Fatalf("round %d: %d records, want %d", round, len(f.records), len(want))
		}
		for i := range want {
			if !bytes.Equal(f.records[i].Value, want[i]) {
				t.Fatalf("round %d: record %d is another", round, i)
			}
		}
		if held := f.rawSpilt + cap(f.raw) + f.spilt + cap(f.arena); held > 2*f.cfg.TransactionBytes {
			t.Errorf("round %d: %d bytes are held for %d", round, held, f.bytes)
		}
	}
}
