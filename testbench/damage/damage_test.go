package damage

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/record"
	"millrace/platform/config"
	"millrace/testbench/fixture"

	"millrace/testbench/lane"
)

var (
	flips = flag.Int("flips", lane.Count("MILLRACE_FLIPS", 2000), "damaged directories to try (MILLRACE_FLIPS)")
	seed  = flag.Uint64("seed", 0, "seed; 0 takes one from the clock")
	first = flag.Int("first", 0, "number of the first trial, to run one again")
	most  = flag.Int("failures", 10, "stop after so many failed trials")
	keep  = flag.Bool("keep", false, "leave the directories of failed trials")
)

// scratch is a directory in memory where there is one: nothing here depends on a sync.
func scratch(t *testing.T) string {
	if dir, err := os.MkdirTemp("/dev/shm", "millrace-damage-"); err == nil {
		t.Cleanup(func() {
			if *keep && t.Failed() {
				return
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		return dir
	}
	return t.TempDir()
}

// linkFiles are the files that a board keeps for a link to another cluster, one that is paused and counts the bytes of a day.
func linkFiles(t *testing.T) fs.FS {
	dir := t.TempDir()
	linked, err := config.Parse("", []byte("[[upstream]]\nname = 'hq'\nbootstrap.servers = ['127.0.0.1:1']\ntopics = ['*']\nrate.bytes.per.day = '1GiB'\n"), config.Names{}, config.Checks{})
	if err != nil {
		t.Fatal(err)
	}
	settings := fixture.Settings(dir)
	settings.Upstreams = linked.Upstreams
	b, err := broker.Open(t.Context(), broker.Config{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	_, err = broker.Decide(t.Context(), dir, "pause", url.Values{"link": {"hq"}})
	if err := errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	delivered := []byte(`[{"topic":"a","partition":0,"id":"00000000000000000000000000000001","from":7}]` + "\n")
	delivered = fmt.Appendf(delivered, "checksum=%08x\n", record.Castagnoli(delivered))
	if err := os.WriteFile(filepath.Join(dir, "upstream", "hq.delivered"), delivered, 0o600); err != nil { // this link has never had a connection
		t.Fatal(err)
	}
	return os.DirFS(filepath.Join(dir, "upstream"))
}

// originals makes the directories that are damaged: every way to stop, with and without catalog snapshots.
func originals(t *testing.T, dir string, seed uint64) []*original {
	var list []*original
	links := linkFiles(t)
	for i, s := range []fixture.Scene{
		{Stop: fixture.Clean},
		{Stop: fixture.Killed},
		{Stop: fixture.Cut},
		{Stop: fixture.Killed, Snapshots: 3},
		{Stop: fixture.Clean, Snapshots: 2},
	} {
		s.Seed = seed + uint64(i)
		s.Dir = filepath.Join(dir, fmt.Sprintf("original-%d", i))
		m, err := s.Make()
		if err != nil {
			t.Fatalf("make %s: %v", s.Dir, err)
		}
		if err := os.CopyFS(filepath.Join(s.Dir, "upstream"), links); err != nil {
			t.Fatal(err)
		}
		o, err := survey(fmt.Sprintf("%s, %d catalog snapshots", s.Stop, s.Snapshots), s.Dir, m)
		if err != nil {
			t.Fatal(err)
		}
		report, err := broker.Fsck(disk.OS{}, s.Dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if report.Damaged() {
			t.Fatalf("%s: damaged before anything was done: %+v", o.name, report.Findings)
		}
		o.findings = o.told(report, s.Dir)
		o.clean = s.Stop == fixture.Clean
		o.power = s.Stop == fixture.Cut
		list = append(list, o)
	}
	return list
}

func TestDamageCostsWhatItTouched(t *testing.T) {
	if testing.Short() {
		*flips = min(*flips, 60)
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) >> 1
	}
	t.Logf("%d damaged directories from seed %d", *flips, *seed)
	dir := scratch(t)
	all := originals(t, dir, *seed)
	var sum tally
	var next atomic.Int64
	next.Store(int64(*first))
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				n := int(next.Add(1) - 1)
				if n >= *first+*flips || sum.broken(*most) {
					return
				}
				rng := rand.New(rand.NewPCG(*seed, uint64(n)))
				o := all[rng.IntN(len(all))]
				x := &trial{
					o: o, dir: filepath.Join(dir, fmt.Sprintf("trial-%d", n)), injury: choose(rng, o.files, o.places),
					kafka: rng.IntN(50) == 0, again: rng.IntN(4) == 0,
				}
				err := x.run()
				sum.add(x, err)
				if err != nil {
					t.Errorf("%s (%s): %v\nagain: go test ./testbench/damage -run %s -seed %d -first %d -flips 1 -v",
						x.injury, o.name, err, t.Name(), *seed, n)
				}
				if err != nil && *keep {
					continue
				}
				if err := x.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d trials, %d lost records, %d in all; fsck found %d; by kind: %v", sum.trials, sum.losing, sum.lost, sum.found, sum.kinds)
	if sum.trials < 1000 || t.Failed() {
		return
	}
	// A run that did not do these things proved nothing about them.
	for _, k := range kinds {
		if sum.kinds[k] == 0 {
			t.Errorf("no %s was damaged: %v", k, slices.Collect(maps.Keys(sum.kinds)))
		}
	}
	if sum.losing == 0 || sum.losing == sum.trials || sum.kafka == 0 || sum.again == 0 || sum.found == 0 {
		t.Errorf("nothing proved: %+v", &sum)
	}
}

// tally counts what was tried.
type tally struct {
	mu                                              sync.Mutex
	trials, losing, lost, found, kafka, again, fail int
	kinds                                           map[kind]int
}

func (s *tally) add(x *trial, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trials++
	if s.kinds == nil {
		s.kinds = make(map[kind]int)
	}
	s.kinds[x.injury.kind]++
	s.lost += x.lost
	for _, c := range []struct {
		n  *int
		is bool
	}{{&s.losing, x.lost > 0}, {&s.found, x.found}, {&s.kafka, x.kafka}, {&s.again, x.again}, {&s.fail, err != nil}} {
		if c.is {
			*c.n++
		}
	}
}

func (s *tally) broken(most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail >= most
}
