package cleaner_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"millrace/broker/partition/partitiontest"
)

// One log of 32 MiB, records of 200 bytes in batches of 50, is compacted to its keys.
func BenchmarkCompaction(b *testing.B) {
	for _, keys := range []int{1000, 20_000} {
		b.Run(fmt.Sprint("keys=", keys), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				topic := compacted()
				w := partitiontest.New(b)
				w.Topic = topic
				w.Start()
				p := w.Create("a")
				rng := rand.New(rand.NewPCG(1, 2))
				for p.Size() < 32<<20 {
					var records []string
					for range 50 {
						records = append(records, fmt.Sprintf("key%d=%s", rng.IntN(keys), strings.Repeat("v", 190)))
					}
					put(b, w, p, records...)
				}
				roll(b, w, p)
				c := sweeper(w, 0, 1<<30)
				b.SetBytes(p.Size())
				b.StartTimer()
				pass(b, c)
				b.StopTimer()
				b.ReportMetric(float64(c.Saved()), "saved-B")
				w.Stop()
				w.Store = nil
			}
		})
	}
}
