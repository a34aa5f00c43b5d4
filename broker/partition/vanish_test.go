package partition_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"millrace/broker/partition/partitiontest"
)

// Somebody removes a partition's directory while the board is off. Its log goes on where it ended: no offset is given
// twice. What the journal still has of it is there.
func TestADirectoryThatIsGoneGivesNoOffsetTwice(t *testing.T) {
	for _, later := range []int{0, 3} { // records behind the checkpoint
		for _, size := range []int64{100, 1 << 20} {
			t.Run(fmt.Sprint(later, size), func(t *testing.T) {
				w := partitiontest.New(t)
				w.Topic.SegmentBytes = size
				w.Start()
				p := w.Create("a")
				partitiontest.Fill(t, p, 10)
				for range 2 {
					if err := w.Store.Checkpoint(); err != nil {
						t.Fatal(err)
					}
				}
				partitiontest.Fill(t, p, later)
				w.Kill()
				if err := os.RemoveAll(filepath.Dir(logFile(w, "a", 0))); err != nil {
					t.Fatal(err)
				}
				w.Start()
				p = w.Partition("a")
				got := values(t, p)
				if p.End() != int64(10+later) || len(got) != later || w.Report.Gaps == 0 {
					t.Errorf("it goes on at %d with %v, lost %v", p.End(), got, w.Report.Lost)
				}
				partitiontest.Fill(t, p, 2)
				w.Restart()
				if p = w.Partition("a"); p.End() != int64(12+later) {
					t.Errorf("after another start it ends at %d: %v", p.End(), w.Report.Lost)
				}
			})
		}
	}
}
