package journal

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkCommit is one group per commit, as one slow client sees it: two allocations are the waiting, none the commit.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{200, 4 << 10, 32 << 10} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			j := run(b, Options{Dir: b.TempDir()}, Mark{})
			group := []Entry{record(0, strings.Repeat("x", size))}
			answer := make(chan error, 1)
			done := func(err error) { answer <- err }
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				j.Stage(group, done)
				if err := <-answer; err != nil {
					b.Fatal(err)
				}
				if inline, _ := j.Bytes(); inline > 8<<20 {
					if err := j.Drop(j.Mark()); err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b, j)
		})
	}
}

// BenchmarkGroupCommit keeps 64 groups of 200 bytes under way.
func BenchmarkGroupCommit(b *testing.B) {
	j := run(b, Options{Dir: b.TempDir()}, Mark{})
	group := []Entry{record(0, strings.Repeat("x", 200))}
	answer := make(chan error, 64)
	done := func(err error) { answer <- err }
	for range 64 {
		j.Stage(group, done)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := <-answer; err != nil {
			b.Fatal(err)
		}
		j.Stage(group, done)
	}
	for range 64 {
		if err := <-answer; err != nil {
			b.Fatal(err)
		}
	}
	report(b, j)
}

// BenchmarkPointedCommit is 256 KiB per commit that travel as a pointer.
func BenchmarkPointedCommit(b *testing.B) {
	j := run(b, Options{Dir: b.TempDir()}, Mark{})
	e := record(0, strings.Repeat("x", 256<<10))
	e.Sync = func() error { return nil }
	group := []Entry{e}
	answer := make(chan error, 1)
	done := func(err error) { answer <- err }
	b.SetBytes(256 << 10)
	b.ReportAllocs()
	for b.Loop() {
		j.Stage(group, done)
		if err := <-answer; err != nil {
			b.Fatal(err)
		}
	}
	report(b, j)
}

func report(b *testing.B, j *Journal) {
	s := j.Stats()
	b.ReportMetric(float64(s.Groups)/float64(s.Commits), "groups/commit")
	b.ReportMetric(float64(s.FrameBytes+s.ZeroBytes)/float64(s.Groups), "B-written/group")
}

func BenchmarkReplay(b *testing.B) {
	dir, _ := fill(b, 200, 4<<10, 1<<20)
	b.SetBytes(200 * 4 << 10)
	b.ReportAllocs()
	for b.Loop() {
		j := open(b, Options{Dir: dir}, Mark{})
		r, err := j.Replay(func(Frame) error { return nil })
		if err != nil || r.Frames != 200 {
			b.Fatal(r, err)
		}
		shut(b, j)
	}
}
