// It needs the proof from below the process, whose go-fuse does not build for 32-bit ARM.
//go:build !arm

package powercut

import (
	"flag"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/broker/disk"
)

var onlyPoint = flag.String("point", "", "the one sync TestEverySyncIsMissed leaves out, default each in turn")

// proof lives through cuts without one sync and says whether something was missed. An error is what was missed.
type proof struct {
	name string
	// run takes the seed of one world.
	run func(t *testing.T, seed uint64, skip disk.Point) error
	// needs is what must be there to run it.
	needs func(*testing.T)
}

var (
	journalProof = proof{name: "the journal alone (a)", run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := journalWorld(scratch(t), seed, skip, worldCuts)
		return err
	}}
	belowProof = proof{name: "below the process (b)", needs: needFUSE, run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := liveBelow(scratch(t), seed, skip, false, belowSessions*belowCuts)
		return err
	}}
	// failingProof is the same on disks that fail often.
	failingProof = proof{name: "below the process, on a failing disk (b)", needs: needFUSE, run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := liveBelow(scratch(t), seed, skip, true, belowCuts)
		return err
	}}
)

func sceneProof(name string, play func(string, uint64, disk.Point) (int, error)) proof {
	return proof{name: name + ", after damage (a)", run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := play(scratch(t), seed, skip)
		return err
	}}
}

// points lists every sync of the broker and the proof that fails without it.
var points = map[disk.Point]proof{
	"checkpoint.directory": belowProof,
	"checkpoint.slot":      belowProof,
	"journal.commit":       belowProof,
	"journal.cut":          failingProof,
	"journal.parent":       journalProof,
	"journal.restart":      failingProof,
	"journal.roll":         belowProof,
	"journal.start":        journalProof,
	"journal.start.dir":    belowProof,
	"meta.directory":       belowProof,
	"meta.file":            belowProof,
	"offline.directory":    sceneProof("offline", offline),
	"offline.file":         sceneProof("offline", offline),
	"partition.topics":     belowProof,
	"partition.walked":     sceneProof("walked", walked),
	"quarantine.directory": sceneProof("quarantined", quarantined),
	"quarantine.file":      sceneProof("quarantined", quarantined),
	"quorum.create":        belowProof,
	"quorum.log":           belowProof,
	"quorum.log.dir":       belowProof,
	"quorum.snapshot":      belowProof,
	"quorum.snapshot.dir":  belowProof,
	"quorum.vote":          belowProof,
	"segment.dir":          belowProof,
	"segment.epochs":       belowProof,
	"segment.epochs.dir":   belowProof,
	"segment.log":          belowProof,
	"segment.metadata":     sceneProof("orphaned", orphaned),
	"segment.metadata.dir": sceneProof("orphaned", orphaned),
	"segment.snapshot":     belowProof,
	"segment.snapshot.dir": belowProof,
}

// A sync that is not in the list is useless or untested.
func TestEverySyncIsListed(t *testing.T) {
	declared := disk.Points()
	for _, p := range declared {
		if _, ok := points[p]; !ok {
			t.Errorf("%s is declared and not listed", p)
		}
	}
	for p := range points {
		if !slices.Contains(declared, p) {
			t.Errorf("%s is listed and not declared", p)
		}
	}
}

// Without any one of them something is lost. That the same proofs hold with all of them is what the other tests show.
func TestEverySyncIsMissed(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	names := disk.Points()
	if *onlyPoint != "" {
		names = []disk.Point{disk.Point(*onlyPoint)}
	}
	var workers sync.WaitGroup
	room := make(chan struct{}, 2)
	for _, point := range names {
		p, ok := points[point]
		if !ok {
			continue // TestEverySyncIsListed tells
		}
		if p.needs != nil {
			p.needs(t)
		}
		workers.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			begin := time.Now()
			for seed := uint64(1); seed <= pointSeeds; seed++ {
				if err := p.run(t, seed, point); err != nil {
					t.Logf("%s: missed by %s, seed %d, %v: %.160s", point, p.name, seed, time.Since(begin).Round(time.Millisecond), err.Error())
					return
				}
			}
			t.Errorf("%s: nothing is lost without it in %d worlds of %s", point, pointSeeds, p.name)
		})
	}
	workers.Wait()
}

// pointSeeds is how many worlds a missing sync may go unnoticed in.
const pointSeeds = 40
