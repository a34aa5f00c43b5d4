package record

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// checked feeds p in pieces of random sizes.
func checked(r *rand.Rand, p []byte) error {
	var c Checker
	for len(p) > 0 {
		n := 1 + r.IntN(min(len(p), 200))
		if err := c.Next(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return c.End()
}

func TestCheckerJudgesAsCheckDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var run []byte
	for i := range 20 {
		b := NewBuilder(None)
		for range 1 + r.IntN(5) {
			b.Add(1000, nil, bytes.Repeat([]byte{byte(i)}, r.IntN(300)), nil)
		}
		batch, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		batch.Stamp(int64(i*10), 1)
		run = append(run, batch...)
	}
	run = append(run, Filler(500, 700, 1, 5)...) // a batch that is a header alone
	for range 50 {
		if err := checked(r, run); err != nil {
			t.Fatal(err)
		}
	}
	for range 500 {
		bad := bytes.Clone(run)
		at := r.IntN(len(bad))
		bad[at] ^= 1 << r.IntN(8)
		want := error(nil)
		for rest := bad; want == nil && len(rest) > 0; {
			var b Batch
			if b, rest, want = Next(rest); want == nil {
				want = b.Check()
			}
		}
		if err := checked(r, bad); (err == nil) != (want == nil) {
			t.Fatalf("byte %d changed: %v, Check says %v", at, err, want)
		}
	}
	for range 100 {
		cut := 1 + r.IntN(len(run)-1)
		whole := false
		for rest := run[:cut]; ; {
			_, after, err := Next(rest)
			if err != nil {
				break
			}
			if rest = after; len(rest) == 0 {
				whole = true
				break
			}
		}
		if err := checked(r, run[:cut]); whole != (err == nil) || err != nil && !errors.Is(err, ErrShort) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}
