package record

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func TestChecksumsOfPiecesJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(rapid.Byte()).Draw(t, "a"), rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		whole := append(append([]byte{}, a...), b...)
		if got, want := Join(Castagnoli(a), Castagnoli(b), len(b)), Castagnoli(whole); got != want {
			t.Fatalf("%08x, want %08x", got, want)
		}
	})
	// Every bit of a length counts.
	p := make([]byte, 1<<21)
	for i := range p {
		p[i] = byte(i * i >> 3)
	}
	for n := 1; n < len(p); n = n*2 + n/3 + 1 {
		if got := Join(Castagnoli(p[n:]), Castagnoli(p[:n]), n); got != Update(Castagnoli(p[n:]), p[:n]) {
			t.Fatalf("%d bytes: %08x", n, got)
		}
	}
}

func TestSumIsTheChecksumOfCheckedBatches(t *testing.T) {
	const seed = 3
	rng := rand.New(rand.NewPCG(seed, seed))
	var p []byte
	for i := range 40 {
		b := NewBuilder(Codec(i % 5))
		for k := range 1 + rng.IntN(4) {
			value := make([]byte, rng.IntN(5000))
			for j := range value {
				value[j] = byte(rng.Uint32())
			}
			b.Add(int64(1000+k), nil, value, nil)
		}
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		Batch(batch).Stamp(int64(10*i), int32(i))
		if i%2 == 0 {
			Batch(batch).StampAppendTime(int64(i))
		}
		p = append(p, batch...)
		if got, want := Sum(p), Castagnoli(p); got != want {
			t.Fatalf("seed %d, %d batches: %08x, want %08x", seed, i+1, got, want)
		}
	}
	for _, p := range [][]byte{nil, p[:100], append(p[:len(p):len(p)], 1, 2, 3), {1, 2, 3}} {
		if got, want := Sum(p), Castagnoli(p); got != want {
			t.Errorf("%d bytes: %08x, want %08x", len(p), got, want)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	builder := NewBuilder(None)
	builder.Add(1, nil, make([]byte, 240<<10), nil)
	p, err := builder.Build()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	for name, sum := range map[string]func([]byte) uint32{"joined": Sum, "computed": Castagnoli} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sum(p)
			}
		})
	}
}
