package upstream

import (
	"math/rand/v2"
	"testing"
)

// A trail tells what a list of all pairs tells, or that it does not know; and it knows what is newer than what it let go.
func TestTrail(t *testing.T) {
	for range 200 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		most := 40 + rng.IntN(200)
		local, up := rng.Int64N(1000), rng.Int64N(1000)
		w := newTrail(local)
		type pair struct{ local, up int64 }
		var all []pair
		first := local
		for range rng.IntN(600) {
			for range 1 + rng.IntN(5) {
				all = append(all, pair{local, up})
				if !w.add(local, up) {
					t.Fatalf("seed %d: %d, %d was not taken", seed, local, up)
				}
				local, up = local+1, up+1
			}
			switch rng.IntN(4) {
			case 0: // a marker there
				up++
			case 1: // one here
				local++
			case 2:
				local, up = local+rng.Int64N(300), up+rng.Int64N(100_000)
			}
			if w.trim(most); len(w.data) > most {
				t.Fatalf("seed %d: %d bytes", seed, len(w.data))
			}
		}
		if w.floor > first+1 && len(w.data) < most/2 {
			t.Fatalf("seed %d: only %d bytes of %d are left", seed, len(w.data), most)
		}
		if w.some() {
			if w.add(all[len(all)-1].local, up) || w.add(local, all[len(all)-1].up) {
				t.Fatalf("seed %d: a record was taken that is not later", seed)
			}
		}
		i := 0
		for offset := first - 1; offset < local+3; offset++ {
			for i < len(all) && all[i].local < offset {
				i++
			}
			got, sent, known := w.at(offset)
			switch {
			case known != (offset >= w.floor && len(all) > 0):
				t.Fatalf("seed %d: %d known %v, the floor is %d", seed, offset, known, w.floor)
			case !known:
			case sent != (i < len(all)), sent && got != all[i].up, !sent && got != all[len(all)-1].up+1:
				t.Fatalf("seed %d: %d is %d, %v", seed, offset, got, sent)
			}
		}
	}
}

// A cursor of a link that follows groups keeps where a record went; what is no such thing is none.
func TestCursorSync(t *testing.T) {
	c := Cursor{Upstream: "t", Next: 10, Last: 9, Sync: Sync{true, 4, 12, 3}}
	p, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseCursor(p); err != nil || got.Sync != c.Sync {
		t.Errorf("%s is %+v, %v", p, got.Sync, err)
	}
	for _, bad := range []Sync{{true, 10, 1, 1}, {true, -1, 1, 1}, {true, 1, -1, 1}, {true, 1, 1, -1}} {
		c.Sync = bad
		if p, err = c.Append(nil); err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCursor(p); err != nil || got.Sync.Is {
			t.Errorf("%s is %+v, %v", p, got.Sync, err)
		}
	}
}
