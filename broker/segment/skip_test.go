package segment

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/record"
)

// tailOf is the offset after the last batch.
func tailOf(tb testing.TB, s *Segment) int64 {
	tb.Helper()
	if err := s.load(); err != nil {
		tb.Fatal(err)
	}
	return s.End()
}

// noise writes spans of 50 topics, a batch each.
func noise(tb testing.TB, s *Segment, spans int) (end int64) {
	tb.Helper()
	topics := make([]string, 50)
	for i := range topics {
		topics[i] = fmt.Sprintf("plant/line/device-%d", i)
	}
	end = tailOf(tb, s)
	for range spans {
		b := topicsOf(tb, record.None, end, 1300, topics...)
		if _, err := s.Append(b); err != nil {
			tb.Fatal(err)
		}
		end = b.NextOffset()
	}
	return end
}

// Without damage all but the open span is known, also behind a start; and the file is small.
func TestTopicIndexPassesWhatIsNotWanted(t *testing.T) {
	s, dir := create(t, 0, Config{})
	end := noise(t, s, 300)
	w, _ := wanted("quiet", "plant/other/#")
	skip := func(what string, want int64) {
		t.Helper()
		var got int64
		for more := true; more; {
			got, more = s.Skip(got, w)
		}
		if got != want {
			t.Errorf("%s: passed up to %d, want %d", what, got, want)
		}
	}
	skip("growing", end)
	s.SaveTopics()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, 0, Config{})
	skip("opened", end)
	if s.indexed {
		t.Error("looking into the topic index has looked into the log")
	}
	end = noise(t, s, 300)
	skip("gone on", end)
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	skip("sealed", end)
	info, err := os.Stat(filepath.Join(dir, fileName(0, TopicIndexSuffix)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes for a log of %d: %.2f %%", info.Size(), s.Size(), 100*float64(info.Size())/float64(s.Size()))
	if info.Size() > s.Size()/400 {
		t.Errorf("%d bytes for a log of %d", info.Size(), s.Size())
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What was only in memory when the process was killed is less than two spans: it is found in the log.
func TestTopicIndexMakesUpForAStop(t *testing.T) {
	s, dir := create(t, 0, Config{})
	noise(t, s, 40)
	s.SaveTopics()
	noise(t, s, 1) // in memory alone
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir, 0, Config{})
	end := noise(t, s, 1)
	w, _ := wanted("quiet")
	if got, _ := s.Skip(0, w); got != end {
		t.Errorf("passed up to %d, want %d", got, end)
	}
}

// A log of Kafka clients has no topic index.
func TestNoTopicIndexWithoutTopics(t *testing.T) {
	s, dir := create(t, 0, Config{})
	end := int64(0)
	for range 50 {
		b := topicsOf(t, record.None, end, 20_000, "", "a", "a")
		if _, err := s.Append(b); err != nil {
			t.Fatal(err)
		}
		end = b.NextOffset()
	}
	s.SaveTopics()
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileName(0, TopicIndexSuffix))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is one: %v", err)
	}
	w, _ := wanted("quiet")
	if got, more := s.Skip(7, w); got != 7 || more {
		t.Errorf("Skip(7) = %d, %t", got, more)
	}
}

// A disk that refuses the topic index refuses no records: it says less from there on, and tells.
func TestTopicIndexThatCannotBeWritten(t *testing.T) {
	fs := disktest.New(disk.OS{})
	var told []error
	s, err := Create(fs, t.TempDir(), 0, Config{TopicsFailed: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	noise(t, s, 10)
	s.SaveTopics()
	known := tailOf(t, s)
	fs.FailWrite(func(name string) bool { return filepath.Ext(name) == TopicIndexSuffix }, errDisk, 1000)
	end := noise(t, s, 100)
	w, _ := wanted("quiet")
	if got, _ := s.Skip(0, w); got >= end { // a page half written is none
		t.Errorf("passed up to %d, of %d", got, end)
	}
	if w, _ := wanted("plant/line/device-0"); true {
		if got, _ := s.Skip(known, w); got != known {
			t.Errorf("what is wanted at %d is passed by up to %d", known, got)
		}
	}
	position, err := s.Position(known + 50)
	if err == nil {
		err = s.Truncate(position)
	}
	if err != nil {
		t.Errorf("a cut fails: %v", err)
	}
	if err := errors.Join(s.Seal(), s.Close()); err != nil {
		t.Error(err)
	}
	if len(told) == 0 || !errors.Is(told[0], errDisk) {
		t.Errorf("told of %v, want %v", told, errDisk)
	}
}

// A compacted segment has a topic index of its own.
func TestTopicIndexOfACompactedSegment(t *testing.T) {
	s, dir := create(t, 0, Config{})
	end := noise(t, s, 60)
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	made, err := CreateCleaned(disk.OS{}, dir, 0, Config{})
	if err != nil {
		t.Fatal(err)
	}
	b := topicsOf(t, record.None, 0, 70_000, "kept")
	b.Extend(end - 1)
	if _, err := made.Append(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(made.Ready(false, time.Unix(1, 0)), made.Replace([]*Segment{s})); err != nil {
		t.Fatal(err)
	}
	w, _ := wanted("plant/line/device-1")
	if got, _ := made.Skip(0, w); got != end {
		t.Errorf("what was compacted away is wanted at %d", got)
	}
	w, _ = wanted("kept")
	if got, _ := made.Skip(0, w); got != 0 {
		t.Errorf("what was kept is passed by up to %d", got)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkNoteTopics(b *testing.B) {
	names := make([]string, 64)
	for i := range names {
		names[i] = fmt.Sprintf("plant/device-%d/temperature", i)
	}
	batch := topicsOf(b, record.None, 0, 128, names...)
	for _, kafka := range []bool{false, true} {
		name := "mqtt"
		if kafka {
			name = "kafka"
			batch = topicsOf(b, record.None, 0, 128, make([]string, 64)...)
		}
		b.Run(name, func(b *testing.B) {
			s, _ := create(b, 0, Config{})
			t := &topicIndex{}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.noteTopic(t, batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/record")
		})
	}
}

// A flipped bit makes a topic index say less, and never that something is not there.
func TestEveryBitFlipOfTheTopicIndex(t *testing.T) {
	l := &topicLog{tb: t, rng: rand.New(rand.NewPCG(1, 1))}
	l.s, l.dir = create(t, 100, Config{})
	for _, topics := range [][]string{{"a", "n/1/t"}, {"n/2/t", "n/1/t"}, {"a/b", "n/1/t"}} {
		base, _ := l.end()
		b := topicsOf(t, record.None, base, topicSpan/2, topics...)
		if _, err := l.s.Append(b); err != nil {
			t.Fatal(err)
		}
		l.keep(b, topics)
	}
	if err := errors.Join(l.s.Seal(), l.s.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.dir, fileName(100, TopicIndexSuffix))
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	used := checkPage(raw)
	if used == 0 {
		t.Fatal("the page is no good to begin with")
	}
	w, _ := wanted("a/b")
	passed := 0
	for bit := range used * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
		s := reopen(t, l.dir, 100, Config{})
		if got, _ := s.Skip(100, w); got > 104 {
			t.Fatalf("bit %d of byte %d: what is wanted, at 104, is passed by up to %d", bit%8, bit/8, got)
		} else if got > 100 {
			passed++
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if passed > 0 {
		t.Errorf("%d flips are not noticed", passed)
	}
}
