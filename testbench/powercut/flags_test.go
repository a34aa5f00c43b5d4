package powercut

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"millrace/testbench/lane"
)

var (
	cuts = flag.Int("cuts", lane.Count("MILLRACE_CUTS", 0), "power cuts to try, a quarter of them below the process; 0 for a few hundred (MILLRACE_CUTS, which make test sets)")
	seed = flag.Uint64("seed", 0, "seed of the first world; 0 takes one from the clock")
	// Every step of every world, on standard error: for one world at a time.
	steps = flag.Bool("steps", false, "print every step")
	// Where the disks are. Nothing is ever really synced, so any directory will do.
	dir = flag.String("dir", "", "directory for the disks, default the test's own")
)

// worldCuts is how many cuts one world lives through, one after the other.
const worldCuts = 20

func scratch(t *testing.T) string {
	base := *dir
	if base == "" {
		base = t.TempDir()
	}
	return filepath.Join(base, fmt.Sprintf("world-%d", rand.Uint64()))
}
