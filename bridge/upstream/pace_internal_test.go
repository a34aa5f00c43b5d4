package upstream

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A peer that writes the end of a transaction for a while is given that while, and no more; one that is slow by itself is
// not made slower by more than the most.
func TestRecordsComeWhenTheEndOfTheLastTransactionIsWritten(t *testing.T) {
	for _, tt := range []struct {
		name             string
		own, jitter, end time.Duration // records take own, and up to jitter; the end of a transaction is written for end
		hold             time.Duration
		least, most      time.Duration // what a transaction is to take on average
	}{
		{"a peer that holds", 5 * time.Millisecond, time.Millisecond, 3 * time.Millisecond, 20 * time.Millisecond, 0, 12 * time.Millisecond},
		{"one that does not", 5 * time.Millisecond, time.Millisecond, 0, 0, 0, 6 * time.Millisecond},
		{"a slow one", 200 * time.Millisecond, 50 * time.Millisecond, 0, 0, 0, 225*time.Millisecond + gapMost},
		{"one whose ends take for ever", 5 * time.Millisecond, time.Millisecond, 30 * time.Millisecond, 20 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 2000
				rng := rand.New(rand.NewPCG(1, 2))
				var p pace
				written := time.Now() // when the end of the last one is
				begin := written
				for range n {
					p.wait(t.Context())
					came := time.Now()
					for time.Now().Before(written) {
						time.Sleep(tt.hold)
					}
					time.Sleep(tt.own + time.Duration(rng.Int64N(int64(tt.jitter))))
					p.took(time.Since(came))
					written = time.Now().Add(tt.end)
					p.end()
				}
				took := time.Since(begin) / n
				t.Logf("%s, gap %s", took, p.gap)
				if took < tt.least || took > tt.most {
					t.Errorf("a transaction takes %s on average", took)
				}
			})
		})
	}
}
