package powercut

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/broker/disk"
)

func TestAcknowledgedMeansOnFlash(t *testing.T) {
	n := *cuts - *cuts/4 // TestBelowTheProcess does the rest
	if *cuts == 0 {
		n = 300
	}
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("%d cuts from seed %d", n, first)
	var next atomic.Int64
	var mu sync.Mutex
	var sum Tally
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i*worldCuts >= n || t.Failed() {
					return
				}
				tally, err := live(scratch(t), first+uint64(i), "", min(worldCuts, n-i*worldCuts))
				if err != nil {
					t.Errorf("%v\nagain: go test ./testbench/powercut -run %s -seed %d -cuts %d -v", err, t.Name(), first+uint64(i), worldCuts+worldCuts/3)
				}
				mu.Lock()
				sum.add(tally)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Logf("%+v", sum)
	// A run that did not do these things proved nothing about them.
	if n >= 1000 && !t.Failed() {
		for what, n := range map[string]int{
			"cuts in recovery": sum.InRecovery, "acknowledged": sum.Acked, "refused": sum.Refused, "unanswered": sum.Unanswered,
			"served": sum.Served, "unanswered that survived": sum.Survived, "pointed": sum.Pointed, "removed segments": sum.Rolls,
			"start moves": sum.Starts, "truncations": sum.Truncations, "deletions": sum.Deletes, "checkpoints": sum.Checkpoints,
			"faults": sum.Faults, "clean stops": sum.Stops,
			"repeated batches": sum.Repeats, "disks checked": sum.Fscks,
			"compactions": sum.Compactions, "bytes compacted": int(sum.Compacted),
			"appended together": sum.Ties,
		} {
			if n == 0 {
				t.Errorf("%s: none in %d cuts", what, sum.Cuts)
			}
		}
	}
}

// live takes one world through its cuts.
func live(dir string, seed uint64, skip disk.Point, cuts int) (Tally, error) {
	var trace func(string, ...any)
	if *steps {
		trace = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	}
	w, err := New(Config{Dir: dir, Seed: seed, Skip: skip, Trace: trace})
	if err != nil {
		return Tally{}, err
	}
	for range cuts {
		if err := w.Cut(); err != nil {
			return w.Tally(), err
		}
	}
	return w.Tally(), os.RemoveAll(dir)
}

func (t *Tally) add(o Tally) {
	t.Cuts += o.Cuts
	t.InRecovery += o.InRecovery
	t.Acked += o.Acked
	t.Refused += o.Refused
	t.Unanswered += o.Unanswered
	t.Served += o.Served
	t.Survived += o.Survived
	t.Pointed += o.Pointed
	t.Rolls += o.Rolls
	t.Starts += o.Starts
	t.Truncations += o.Truncations
	t.Creates += o.Creates
	t.Deletes += o.Deletes
	t.Checkpoints += o.Checkpoints
	t.Faults += o.Faults
	t.Stops += o.Stops
	t.Repeats += o.Repeats
	t.Fscks += o.Fscks
	t.Compactions += o.Compactions
	t.Compacted += o.Compacted
	t.Ties += o.Ties
	t.TiesKept += o.TiesKept
}
