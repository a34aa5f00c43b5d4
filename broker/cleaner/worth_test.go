package cleaner_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// A log is compacted when enough of it is dirty, or when what is dirty is old; what is young is left alone.
func TestWhatIsWorthACompaction(t *testing.T) {
	const never = time.Duration(math.MaxInt64)
	for _, tt := range []struct {
		name        string
		ratio       float64
		least, most time.Duration // min.compaction.lag.ms, max.compaction.lag.ms
		dirty       int           // records that come after ten were compacted
		after       time.Duration // that they came
		want        bool
	}{
		{"a sixth, half is wanted", 0.5, 0, never, 2, 0, false},
		{"a sixth, a tenth is wanted", 0.1, 0, never, 2, 0, true},
		{"two thirds, half is wanted", 0.5, 0, never, 20, 0, true},
		{"two thirds, nine tenths are wanted", 0.9, 0, never, 20, 0, false},
		{"little, and not yet old", 0.5, 0, time.Hour, 2, 50 * time.Minute, false},
		{"little, but old", 0.5, 0, time.Hour, 2, 70 * time.Minute, true},
		{"much, but young", 0.5, time.Hour, never, 20, 50 * time.Minute, false},
		{"much, and not young any more", 0.5, time.Hour, never, 20, 70 * time.Minute, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			topic := compacted()
			topic.MinCleanableRatio, topic.MinCompactionLagMS, topic.MaxCompactionLagMS = tt.ratio, tt.least.Milliseconds(), tt.most.Milliseconds()
			w, p := begin(t, topic)
			c := sweeper(w, 0, 0)
			write := func(n int) {
				for i := range n {
					put(t, w, p, fmt.Sprintf("key%d=%s", i%10, strings.Repeat("v", 1000)))
				}
				roll(t, w, p)
			}
			write(10)
			w.Clock = w.Clock.Add(2 * time.Hour)
			roll(t, w, p) // the segment to come begins now
			pass(t, c)
			before := c.Compacted()
			if before != 1 {
				t.Fatalf("%d compactions of a log that is all dirty", before)
			}
			write(tt.dirty)
			w.Clock = w.Clock.Add(tt.after)
			pass(t, c)
			if got := c.Compacted() > before; got != tt.want {
				t.Errorf("compacted: %v, want %v", got, tt.want)
			}
		})
	}
}
