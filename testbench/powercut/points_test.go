// It needs the proof from below the process, whose go-fuse does not build for 32-bit ARM.
//go:build !arm

package powercut

import (
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	// seeds is how many worlds a missing sync may go unnoticed in.
	seeds uint64
	// control: the same world is lived through once more with every sync in its place, and must lose nothing. The proof
	// without one is TestBelowTheProcess in a thousand other worlds.
	control bool
}

var (
	journalProof = proof{name: "the journal alone (a)", seeds: 40, control: true, run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := journalWorld(scratch(t), seed, skip, worldCuts)
		return err
	}}
	belowProof = proof{name: "below the process (b)", seeds: 40, needs: needFUSE, run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := liveBelow(scratch(t), seed, skip, false, belowSessions*belowCuts)
		return err
	}}
)

func sceneProof(name string) proof {
	play := scenes[name]
	return proof{name: "the scene " + name + " (a)", seeds: sceneSeeds, control: true, run: func(t *testing.T, seed uint64, skip disk.Point) error {
		_, err := play(scratch(t), seed, skip)
		return err
	}}
}

// points lists every sync of the broker and the proof that fails without it.
var points = map[disk.Point]proof{
	"boot.directory":       sceneProof("timed"),
	"boot.file":            sceneProof("timed"),
	"checkpoint.directory": sceneProof("checkpointed"),
	"checkpoint.slot":      sceneProof("checkpointed"),
	"contract.budget":      sceneProof("metered"),
	"contract.budget.dir":  sceneProof("metered"),
	"journal.commit":       belowProof,
	"journal.cut":          sceneProof("mended"),
	"journal.parent":       journalProof,
	"journal.restart":      sceneProof("mended"),
	"journal.roll":         belowProof,
	"journal.start":        journalProof,
	"journal.start.dir":    belowProof,
	"meta.directory":       sceneProof("formatted"),
	"meta.file":            sceneProof("formatted"),
	"offline.directory":    sceneProof("offline"),
	"offline.file":         sceneProof("offline"),
	"partition.topics":     belowProof,
	"partition.walked":     sceneProof("walked"),
	"quarantine.directory": sceneProof("quarantined"),
	"quarantine.file":      sceneProof("quarantined"),
	"quorum.create":        belowProof,
	"quorum.log":           belowProof,
	"quorum.log.dir":       belowProof,
	"quorum.snapshot":      sceneProof("snapshotted"),
	"quorum.snapshot.dir":  sceneProof("snapshotted"),
	"quorum.vote":          belowProof,
	"reset.directory":      sceneProof("reset"),
	"segment.causes":       sceneProof("checkpointed"),
	"segment.causes.dir":   sceneProof("checkpointed"),
	"segment.cleaned":      sceneProof("compacted"),
	"segment.dir":          belowProof,
	"segment.epochs":       sceneProof("led"),
	"segment.epochs.dir":   sceneProof("led"),
	"segment.log":          belowProof,
	"segment.merged":       sceneProof("compacted"),
	"segment.metadata":     sceneProof("orphaned"),
	"segment.metadata.dir": sceneProof("orphaned"),
	"segment.replaced":     sceneProof("compacted"),
	"segment.snapshot":     belowProof,
	"segment.snapshot.dir": belowProof,
	"segment.swap":         sceneProof("compacted"),
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

// The list above is of what this test links. A point of another package, or a sync that bears a name nobody declared,
// would not be in it: so the source is asked too.
func TestEverySyncOfTheSourceIsListed(t *testing.T) {
	seen := make(map[disk.Point]bool)
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		declared, nameless, err := syncs(name, text)
		for _, p := range declared {
			seen[p] = true
			if _, ok := points[p]; !ok {
				t.Errorf("%s declares %s, which is not listed", name, p)
			}
		}
		if !strings.HasPrefix(filepath.ToSlash(name), "../../testbench/") && len(nameless) > 0 {
			t.Errorf("syncs without a declared point: %s", nameless)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range points {
		if !seen[p] {
			t.Errorf("%s is listed, and no source declares it: is it not said in one string?", p)
		}
	}
}

// syncs finds the points that a file declares, and where it syncs without one.
func syncs(name string, text []byte) (declared []disk.Point, nameless []string, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		called := ""
		switch f := call.Fun.(type) {
		case *ast.Ident:
			called = f.Name
		case *ast.SelectorExpr:
			called = f.Sel.Name
		}
		var last *ast.BasicLit
		if len(call.Args) > 0 {
			last, _ = call.Args[len(call.Args)-1].(*ast.BasicLit)
		}
		switch called {
		case "NewPoint":
			if last == nil {
				nameless = append(nameless, set.Position(call.Pos()).String())
				break
			}
			p, unquoteErr := strconv.Unquote(last.Value)
			err = errors.Join(err, unquoteErr)
			declared = append(declared, disk.Point(p))
		case "Sync", "SyncDir":
			if last != nil {
				nameless = append(nameless, set.Position(call.Pos()).String())
			}
		case "Point", "Fsync", "Fdatasync", "SyncFileRange", "Syncfs":
			if file.Name.Name != "disk" {
				nameless = append(nameless, set.Position(call.Pos()).String())
			}
		}
		return true
	})
	return declared, nameless, err
}

// The look at the source must see each way a sync may escape it.
func TestSyncsAreSeen(t *testing.T) {
	declared, nameless, err := syncs("x.go", []byte(`package x
var p = disk.NewPoint("x.one")
func f() {
	_ = file.Sync("x.two")
	_ = fs.SyncDir(dir, "x.three")
	_ = file.Sync(disk.Point(name))
	_ = disk.NewPoint(name)
	_ = unix.Fdatasync(fd)
	_ = file.Sync(p)
	segment.Sync()
}`))
	if err != nil || !slices.Equal(declared, []disk.Point{"x.one"}) || len(nameless) != 5 {
		t.Errorf("declared %v, nameless %v, %v; want x.one and five", declared, nameless, err)
	}
}

// Without any one of them something is lost.
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
			for seed := uint64(1); seed <= p.seeds; seed++ {
				if err := p.run(t, seed, point); err != nil {
					if p.control {
						if err := p.run(t, seed, ""); err != nil {
							t.Errorf("%s: %s, seed %d, loses something with every sync in its place: %v", point, p.name, seed, err)
						}
					}
					t.Logf("%s: missed by %s, seed %d, %v: %.160s", point, p.name, seed, time.Since(begin).Round(time.Millisecond), err.Error())
					return
				}
			}
			t.Errorf("%s: nothing is lost without it in %d worlds of %s", point, p.seeds, p.name)
		})
	}
	workers.Wait()
}
