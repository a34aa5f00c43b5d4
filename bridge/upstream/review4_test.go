package upstream_test

import (
	"testing"
	"time"

	"millrace/bridge/upstream"
)

// The siege where the log loses records, too: gap records are part of transactions.
func TestReviewSiegeWithGaps(t *testing.T) {
	for _, cfg := range []upstream.Config{
		{TransactionBytes: 2000},
		{Order: upstream.LiveFirst, TransactionBytes: 4000, LiveBehind: time.Millisecond},
	} {
		bad := 0
		for _, seed := range seeds(100) {
			if list := besieged(t, seed, cfg, true, func(w *world) { w.loses = true }); len(list) > 0 {
				if bad++; bad < 4 {
					t.Errorf("%v -seed=%d: %d faults, %s", cfg.Order, seed, len(list), list[0])
				}
			}
		}
		t.Logf("%v: %d of 100", cfg.Order, bad)
	}
}
