package contract

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestClaimsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, claims := range map[string][]Claim{
		"none":           nil,
		"too many":       make([]Claim, ClaimsMax+1),
		"more than all":  {{MinimumShare: 0.6}, {MinimumShare: 0.6}},
		"a share over 1": {{MinimumShare: 1.1}},
		"below 0":        {{MinimumShare: -0.1}},
		"no number":      {{MinimumShare: math.NaN()}},
		"above 0":        {{Priority: -1}},
	} {
		if _, err := NewScheduler(claims); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// shares sends n transactions of all whose bit is set, and says which part of the bytes each had.
func shares(t *testing.T, s *Scheduler, pending Set, n int) []float64 {
	t.Helper()
	sent := make([]int64, len(s.claims))
	for range n {
		i, bytes := s.Pick(pending, 1000)
		if bytes != 1000 {
			t.Fatalf("Pick = %d, %d", i, bytes)
		}
		sent[i] += bytes
		s.Sent(i, bytes)
	}
	part := make([]float64, len(sent))
	for i := range sent {
		part[i] = math.Round(float64(sent[i])/float64(n)) / 1000
	}
	return part
}

func TestSharesByExample(t *testing.T) {
	for _, tt := range []struct {
		name    string
		claims  []Claim
		pending Set
		want    []float64
	}{
		{"the highest has all", []Claim{{Priority: 1}, {Priority: 0}, {Priority: 2}}, 0b111, []float64{0, 1, 0}},
		{"the next when it has nothing", []Claim{{Priority: 1}, {Priority: 0}, {Priority: 2}}, 0b101, []float64{1, 0, 0}},
		{"a fifth for the lowest", []Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.2}}, 0b11, []float64{0.8, 0.2}},
		{"two minimums", []Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.3}, {Priority: 2, MinimumShare: 0.1}, {Priority: 1}}, 0b1111, []float64{0.6, 0.3, 0.1, 0}},
		{"one that is not used", []Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.3}, {Priority: 2, MinimumShare: 0.1}}, 0b101, []float64{0.9, 0, 0.1}},
		{"the highest with a minimum", []Claim{{Priority: 0, MinimumShare: 0.2}, {Priority: 1, MinimumShare: 0.5}}, 0b11, []float64{0.5, 0.5}},
		{"shares of everything", []Claim{{Priority: 0}, {Priority: 0, MinimumShare: 0.5}, {Priority: 0, MinimumShare: 0.5}}, 0b111, []float64{0, 0.5, 0.5}},
		{"two as equals", []Claim{{Priority: 3}, {Priority: 3}}, 0b11, []float64{0.5, 0.5}},
		{"three as equals, one of which is owed half", []Claim{{Priority: 3}, {Priority: 3, MinimumShare: 0.5}, {Priority: 3}}, 0b111, []float64{0.25, 0.5, 0.25}},
	} {
		s, err := NewScheduler(tt.claims)
		if err != nil {
			t.Fatal(err)
		}
		got := shares(t, s, tt.pending, 4000)
		for i := range got {
			if math.Abs(got[i]-tt.want[i]) > 0.001 {
				t.Errorf("%s: shares %v, want %v", tt.name, got, tt.want)
				break
			}
		}
	}
}

func TestNothingIsPickedOfNothing(t *testing.T) {
	s, err := NewScheduler([]Claim{{}, {MinimumShare: 0.5}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pending Set
		room    int64
	}{{0, 100}, {1 << 40, 100}, {3, 0}, {3, -1}} {
		if i, bytes := s.Pick(tt.pending, tt.room); i != -1 || bytes != 0 {
			t.Errorf("Pick(%b, %d) = %d, %d", tt.pending, tt.room, i, bytes)
		}
	}
}

// A class that was alone for a day does not pay for it when the others come back, and none has saved anything up.
func TestWhoWasAloneOwesNothing(t *testing.T) {
	s, err := NewScheduler([]Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.2}})
	if err != nil {
		t.Fatal(err)
	}
	shares(t, s, 0b10, 100_000)
	waited := 0
	for i, _ := s.Pick(0b11, 1000); i == 0; i, _ = s.Pick(0b11, 1000) {
		s.Sent(i, 1000)
		waited++
	}
	if waited > 6 { // at most one transaction of its own: five of the other's pay it
		t.Errorf("waits for %d transactions", waited)
	}
	shares(t, s, 0b01, 100_000)
	for in := range 5 {
		i, _ := s.Pick(0b11, 1000)
		s.Sent(i, 1000)
		if in > 1 && i == 1 {
			t.Errorf("transaction %d is of the one that had nothing to send", in)
		}
	}
}

// The promise of Scheduler, over random claims, transactions and comings and goings: nobody is served less than its minimum
// while it waits, no class passes a higher one but for a minimum, equals are served as equals, and the state stays bounded.
func TestSharesHoldWhateverComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "classes")
		claims := make([]Claim, n)
		left := 100
		for i := range claims {
			share := rapid.IntRange(0, left).Draw(t, "percent")
			if rapid.Bool().Draw(t, "none") {
				share = 0
			}
			left -= share
			claims[i] = Claim{Priority: rapid.IntRange(0, 3).Draw(t, "priority"), MinimumShare: float64(share) / 100}
		}
		s, err := NewScheduler(claims)
		if err != nil {
			t.Fatal(err)
		}
		room := rapid.Int64Range(1, 1<<20).Draw(t, "room")
		pending := Set(rapid.Uint64().Draw(t, "pending")) & (1<<n - 1)
		// Since a class has been pending without a break: what all sent, and what it sent itself.
		all, own := make([]int64, n), make([]int64, n)
		steps := rapid.IntRange(1, 400).Draw(t, "steps")
		rng := rapid.Uint64().Draw(t, "rng") // drawing each step would shrink to nothing useful and take long
		next := func(below uint64) uint64 {
			rng = rng*6364136223846793005 + 1442695040888963407
			return (rng >> 33) % below
		}
		for range steps {
			if next(20) == 0 {
				pending ^= 1 << next(uint64(n))
			}
			i, bytes := s.Pick(pending, room)
			if pending == 0 {
				if i != -1 {
					t.Fatalf("picked %d of none", i)
				}
				clear(all)
				clear(own)
				continue
			}
			if !pending.Has(i) || bytes != room {
				t.Fatalf("Pick(%b, %d) = %d, %d", pending, room, i, bytes)
			}
			owed := s.claims[i].owed > 0
			for j := range claims {
				if pending.Has(j) && !owed && claims[j].Priority < claims[i].Priority {
					t.Fatalf("class %d passed %d, and nothing was owed to it", i, j)
				}
			}
			if next(3) > 0 {
				bytes = int64(next(uint64(room))) + 1
			}
			s.Sent(i, bytes)
			for j := range claims {
				if !pending.Has(j) {
					all[j], own[j] = 0, 0
					continue
				}
				all[j] += bytes
				if j == i {
					own[j] += bytes
				}
				if least := claims[j].MinimumShare*float64(all[j]) - float64(int64(n+1)*room); float64(own[j]) < least {
					t.Fatalf("class %d of %+v sent %d of %d bytes, at least %.0f are its own", j, claims, own[j], all[j], least)
				}
				if c := s.claims[j]; c.owed > int64(n+1)*room*million || c.owed < -room*million || c.ahead < 0 || c.ahead > 2*room {
					t.Fatalf("class %d is owed %d and is ahead by %d at %d a transaction", j, c.owed/million, c.ahead, room)
				}
			}
		}
	})
}

// A transaction's room follows the link's speed by orders of magnitude, and one record may be larger than all of it: shares hold
// in the long run all the same, and no number overflows.
func TestSharesHoldWhereTheRoomChanges(t *testing.T) {
	s, err := NewScheduler([]Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.25}})
	if err != nil {
		t.Fatal(err)
	}
	var all, own int64
	for i := range int64(100_000) {
		room := int64(1) << (10 + i/7%11)
		class, bytes := s.Pick(0b11, room)
		if i%101 == 0 {
			bytes *= 9
		}
		s.Sent(class, bytes)
		if all += bytes; class == 1 {
			own += bytes
		}
	}
	if part := float64(own) / float64(all); part < 0.25 || part > 0.27 {
		t.Errorf("a quarter came out as %.4f", part)
	}
	for range 10 {
		s.Sent(0, math.MaxInt64)
		s.Sent(1, math.MaxInt64)
		if c := s.claims[1]; c.owed < -owedMax*million || c.owed > owedMax*million || c.ahead > owedMax {
			t.Fatalf("%+v", c)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	s, err := NewScheduler([]Claim{{Priority: 0}, {Priority: 1, MinimumShare: 0.2}, {Priority: 2, MinimumShare: 0.1}, {Priority: 3}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		i, n := s.Pick(0b1111, 1<<20)
		s.Sent(i, n)
	}
}
