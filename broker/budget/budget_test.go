package budget

import (
	"context"
	"debug/elf"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// share carves one share of size bytes and checks on the way out that everything came back.
func share(t *testing.T, size int64) *Share {
	t.Helper()
	s, err := New(size).Share("requests", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g := s.Gauge(); g.Used != 0 || g.Waiting != 0 {
			t.Errorf("left behind: %+v", g)
		}
	})
	return s
}

func TestSharesNeverExceedTheTotal(t *testing.T) {
	b := New(100)
	if _, err := b.Share("requests", 60); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Share("fetch", 41); !errors.Is(err, ErrExhausted) {
		t.Errorf("41 of 40: %v", err)
	}
	if _, err := b.Share("fetch", -1); !errors.Is(err, ErrExhausted) {
		t.Errorf("-1: %v", err)
	}
	if _, err := b.Share("requests", 1); err == nil {
		t.Error("carved twice under one name")
	}
	if _, err := b.Share("fetch", 40); err != nil {
		t.Error(err)
	}
	if g := b.Gauges(); b.Left() != 0 || b.Total() != 100 || len(g) != 2 || g[1].Name != "fetch" || g[1].Size != 40 {
		t.Errorf("left %d of %d, gauges %+v", b.Left(), b.Total(), g)
	}
}

func TestTryAcquireTakesWhatIsThere(t *testing.T) {
	s := share(t, 10)
	if !s.TryAcquire(10) || s.TryAcquire(1) || !s.TryAcquire(0) {
		t.Error("want 10 of 10, then not 1, then 0")
	}
	s.Release(4)
	if s.TryAcquire(5) || !s.TryAcquire(4) {
		t.Error("want 4 of 4, not 5")
	}
	if g := s.Gauge(); g.Used != 10 || g.Peak != 10 || g.Refused != 2 {
		t.Errorf("gauge %+v", g)
	}
	s.Release(10)
}

func TestAcquireWaitsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 10)
		if err := s.Acquire(t.Context(), 8); err != nil {
			t.Fatal(err)
		}
		order := make(chan int64, 2)
		for _, n := range []int64{5, 2} {
			go func() {
				if err := s.Acquire(t.Context(), n); err != nil {
					t.Error(err)
				}
				order <- n
			}()
			synctest.Wait()
		}
		// 2 are free, but the 5 before them come first, and so they do for who only tries.
		if len(order) != 0 || s.TryAcquire(1) || s.Gauge().Waiting != 2 {
			t.Fatalf("somebody overtook the line: %+v", s.Gauge())
		}
		s.Release(3)
		synctest.Wait()
		if len(order) != 1 || <-order != 5 {
			t.Fatal("the first in line was not served first")
		}
		s.Release(5)
		if n := <-order; n != 2 {
			t.Fatalf("served %d", n)
		}
		s.Release(7)
	})
}

func TestAcquireGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 10)
		if !s.TryAcquire(5) {
			t.Fatal("empty share refused")
		}
		ctx, cancel := context.WithCancel(t.Context())
		large, small := make(chan error, 1), make(chan error, 1)
		go func() { large <- s.Acquire(ctx, 10) }()
		synctest.Wait()
		go func() { small <- s.Acquire(t.Context(), 5) }()
		synctest.Wait()
		cancel()
		if err := <-large; !errors.Is(err, context.Canceled) {
			t.Errorf("Acquire = %v", err)
		}
		if err := <-small; err != nil { // it fits once the one before it has gone
			t.Error(err)
		}
		if err := s.Acquire(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		s.Release(10)
	})
}

func TestTooLargeNeverWaits(t *testing.T) {
	s := share(t, 10)
	if err := s.Acquire(t.Context(), 11); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Acquire = %v", err)
	}
}

func TestReleaseOfMoreThanTakenPanics(t *testing.T) {
	s := share(t, 10)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Release(1)
}

func TestNeverMoreThanTheSize(t *testing.T) {
	s := share(t, 100)
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			for j := range int64(2000) {
				n := (i*31 + j*17) % 101
				if j%2 == 0 {
					if err := s.Acquire(t.Context(), n); err != nil {
						t.Error(err)
						return
					}
				} else if !s.TryAcquire(n) {
					continue
				}
				if u := s.Used(); u < n || u > s.Size() {
					t.Errorf("%d of %d used, %d by one", u, s.Size(), n)
				}
				s.Release(n)
			}
		})
	}
	all.Wait()
}

func TestHeapLimit(t *testing.T) {
	for _, tt := range []struct {
		limit, binary, want int64 // want 0: an error
	}{
		{48 << 20, 14 << 20, 30 << 20},
		{48 << 20, 0, 44 << 20},
		{22 << 20, 14 << 20, 4 << 20},
		{22<<20 - 1, 14 << 20, 0},
		{0, 0, 0},
		{math.MinInt64, 1 << 20, 0},
		{48 << 20, -1, 0},
		{48 << 20, math.MaxInt64, 0},
	} {
		got, err := HeapLimit(tt.limit, tt.binary)
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("HeapLimit(%d, %d) = %d, %v; want %d", tt.limit, tt.binary, got, err, tt.want)
		}
	}
}

func TestBinaryPages(t *testing.T) {
	const maps = `00010000-00900000 r-xp 00000000 b3:02 4242 /usr/bin/mill race
00900000-00f00000 r--p 008f0000 b3:02 4242 /usr/bin/mill race
00f00000-00f40000 rw-p 00ef0000 b3:02 4242 /usr/bin/mill race
00f40000-00f80000 rw-p 00000000 00:00 0
b6f00000-b6f21000 r-xp 00000000 b3:02 17 /lib/ld.so
bef00000-bef21000 rw-p 00000000 00:00 0 [stack]
`
	n, err := BinaryPages(strings.NewReader(maps), "/usr/bin/mill race")
	if n != 0xf30000 || err != nil {
		t.Errorf("BinaryPages = %#x, %v; want 0xf30000", n, err)
	}
	if _, err := BinaryPages(strings.NewReader("zz-10 r-xp 0 b3:02 1 /x\n"), "/x"); err == nil {
		t.Error("nonsense was taken for a mapping")
	}
}

// The pages of a program that are thrown away are its code and its constants, and no variable lies there.
func TestCleanPages(t *testing.T) {
	const page = 4096
	for _, goarch := range []string{"amd64", "arm64", "arm"} {
		source, name := filepath.Join(t.TempDir(), "main.go"), filepath.Join(t.TempDir(), "main")
		if err := os.WriteFile(source, []byte("package main\n\nfunc main() { println() }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		build := exec.Command("go", "build", "-o", name, source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+goarch)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", goarch, err, out)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		clean, err := CleanPages(file, page)
		if err != nil {
			t.Fatal(err)
		}
		within := func(at uint64) bool {
			return slices.ContainsFunc(clean, func(r Range) bool { return at >= r.Start && at < r.Start+r.Size })
		}
		program, err := elf.NewFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want []Range
		for _, p := range program.Progs {
			if start, end := (p.Vaddr+page-1)/page*page, (p.Vaddr+p.Filesz)/page*page; p.Type == elf.PT_LOAD && p.Flags&elf.PF_W == 0 && start < end {
				want = append(want, Range{start, end - start})
			}
		}
		if !slices.Equal(clean, want) {
			t.Errorf("%s: %#x, and the headers say %#x", goarch, clean, want)
		}
		symbols, err := program.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		code := 0
		for _, s := range symbols {
			switch section := int(s.Section); {
			case section >= len(program.Sections):
			case program.Sections[section].Flags&elf.SHF_WRITE != 0 && within(s.Value):
				t.Errorf("%s: the variable %s at %#x would be thrown away", goarch, s.Name, s.Value)
			case program.Sections[section].Name == ".text" && within(s.Value):
				code++
			}
		}
		if code < 100 {
			t.Errorf("%s: only %d functions lie in %#x", goarch, code, clean)
		}
		for _, r := range clean {
			if r.Start%page != 0 || r.Size%page != 0 {
				t.Errorf("%s: %#x is no whole page", goarch, r)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	rest := strings.Repeat("\x00", 64)
	for _, nonsense := range []string{
		"no program", "no program" + rest, "\x7fELF" + rest, "\x7fELF\x02\x02" + rest, // no file, another, no class, another order of bytes
		"\x7fELF\x02\x01" + rest[:10] + "\x02" + rest,                                  // program headers of no size
		"\x7fELF\x02\x01" + rest[:10] + "\x02" + rest[:37] + "\x38\x00\x02" + rest[:8], // beyond the end
	} {
		if _, err := CleanPages(strings.NewReader(nonsense), page); err == nil {
			t.Errorf("%q was taken for a program", nonsense)
		}
	}
}

func TestOverdrawnIsPaidBackFirst(t *testing.T) {
	s, err := New(10).Share("state", 10)
	if err != nil {
		t.Fatal(err)
	}
	s.Overdraw(15)
	if s.Used() != 15 || s.TryAcquire(1) {
		t.Errorf("%d used, and more is given", s.Used())
	}
	s.Release(6)
	if !s.TryAcquire(1) || s.TryAcquire(1) {
		t.Errorf("%d used after 6 of 15 came back", s.Used())
	}
	s.Release(10)
}

func elastic(t *testing.T, b *Budget, name string, least, most int64) *Share {
	t.Helper()
	s, err := b.Elastic(name, least, most)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestElasticSharesTakeOfThePotWhatIsThere(t *testing.T) {
	b := New(100)
	bodies, clients := elastic(t, b, "bodies", 20, 60), elastic(t, b, "connections", 0, 50)
	if b.Left() != 80 {
		t.Fatalf("%d in the pot, want 80", b.Left())
	}
	if !bodies.TryAcquire(60) || bodies.TryAcquire(1) {
		t.Error("want 60, its own 20 and 40 of the pot, and then no more")
	}
	if clients.TryAcquire(41) || !clients.TryAcquire(40) {
		t.Error("want the 40 that are left in the pot, and not 41")
	}
	bodies.Release(41) // one of its own, and all it had of the pot
	if !clients.TryAcquire(10) || clients.TryAcquire(1) {
		t.Error("want 10 more, and then no more: 50 is the most")
	}
	if !bodies.TryAcquire(1 + 30) {
		t.Error("what is its own, and what is left in the pot, are not there")
	}
	if _, err := b.Share("late", 1); !errors.Is(err, ErrExhausted) {
		t.Errorf("carved out of what is lent: %v", err)
	}
	if g := b.Gauges(); g[0].Size != 60 || g[0].Used != 50 || g[1].Used != 50 || bodies.Size() != 20 {
		t.Errorf("%+v", g)
	}
	bodies.Release(50)
	clients.Release(50)
	if b.lent != 0 {
		t.Errorf("%d are still lent", b.lent)
	}
}

// What stays may take all of the pot: what passes still has its own.
func TestAnEmptyPotStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(100)
		bodies, state := elastic(t, b, "bodies", 20, 60), elastic(t, b, "state", 0, 200)
		state.Overdraw(110) // loaded from the disk
		if state.TryAcquire(1) || !bodies.TryAcquire(15) {
			t.Fatal("want nothing of the pot, and 15 of its own")
		}
		if err := bodies.Acquire(t.Context(), 61); !errors.Is(err, ErrTooLarge) {
			t.Errorf("more than it may have: %v", err)
		}
		done := make(chan error, 2)
		go func() { done <- bodies.Acquire(t.Context(), 20) }()
		synctest.Wait()
		go func() { done <- bodies.Acquire(t.Context(), 5) }()
		synctest.Wait()
		state.Release(20) // paid back, nothing is there
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("served from an overdrawn pot")
		}
		state.Release(30) // 20 are there now: the first fits, with the 5 of its own
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		bodies.Release(40)
		state.Release(60)
		if b.lent != 0 {
			t.Errorf("%d are still lent", b.lent)
		}
	})
}

func TestElasticSharesNeverExceedTheTotal(t *testing.T) {
	b := New(1000)
	shares := []*Share{elastic(t, b, "a", 100, 600), elastic(t, b, "b", 100, 1000), elastic(t, b, "c", 50, 50), elastic(t, b, "d", 10, 900)}
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			s := shares[i%4]
			for j := range int64(2000) {
				n := (i*31 + j*17) % 251
				if j%2 == 0 {
					n = min(n, s.Size())
					if err := s.Acquire(t.Context(), n); err != nil {
						t.Error(err)
						return
					}
				} else if !s.TryAcquire(n) {
					continue
				}
				b.mu.Lock()
				used, lent := int64(0), int64(0)
				for _, s := range shares {
					used += s.used
					lent += s.borrowed(s.used)
					if s.used > s.most {
						t.Errorf("%s: %d used of at most %d", s.name, s.used, s.most)
					}
				}
				if used > b.total || lent != b.lent || lent > b.total-b.carved {
					t.Errorf("%d used, %d lent, counted %d", used, lent, b.lent)
				}
				b.mu.Unlock()
				s.Release(n)
			}
		})
	}
	all.Wait()
	if b.lent != 0 {
		t.Errorf("%d are still lent", b.lent)
	}
}

// Who is told later stands in the same line as who waits, and leaves it once.
func TestLaterStandsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 10)
		told := 0
		tell := func() { told++ }
		now, err := s.Later(6, tell)
		if err != nil || told != 1 || now() {
			t.Fatalf("not granted at once: %v, told %d", err, told)
		}
		first, err := s.Later(5, tell)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := s.Acquire(t.Context(), 4); err != nil {
				t.Error(err)
			}
			s.Release(4)
		}()
		synctest.Wait()
		if g := s.Gauge(); told != 1 || g.Waiting != 2 || g.Used != 6 {
			t.Fatalf("told %d, %+v", told, g)
		}
		if !first() || first() {
			t.Error("want to leave the line once")
		}
		synctest.Wait() // and the one behind is served
		second, err := s.Later(8, tell)
		if err != nil || told != 1 {
			t.Fatal(err, told)
		}
		s.Release(6)
		if told != 2 || second() {
			t.Errorf("told %d", told)
		}
		s.Release(8)
		if _, err := s.Later(11, tell); !errors.Is(err, ErrTooLarge) {
			t.Error(err)
		}
	})
}
