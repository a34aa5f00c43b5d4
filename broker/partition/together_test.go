package partition_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// part is one record for a partition; what became of it is added to got.
func part(p *partition.Partition, value string, got *[]string) partition.Part {
	return partition.Part{Partition: p, Records: []record.Record{{Value: []byte(value)}}, Done: func(r partition.AppendResult) {
		*got = append(*got, fmt.Sprintf("%s %d %v", p.Topic(), r.Base, r.Err != nil))
	}}
}

var anyEpoch = partition.AppendOptions{Epoch: -1}

// barrier returns when what was staged to p before is answered.
func barrier(t *testing.T, p *partition.Partition) {
	t.Helper()
	if _, err := partitiontest.Append(p, "barrier"); err != nil {
		t.Fatal(err)
	}
}

func TestPartsOfOneGroupLandTogetherAndKeepTheirPlace(t *testing.T) {
	for _, real := range []bool{false, true} {
		w := partitiontest.New(t)
		w.Real = real
		w.Start()
		a, b := w.Create("a"), w.Create("b")
		var got []string
		gathered := func(value string) {
			p := part(a, value, &got)
			a.AppendRecords(p.Records, anyEpoch, p.Done)
		}
		gathered("before")
		partition.AppendTogether([]partition.Part{part(b, "b0", &got), part(a, "a1", &got)}, anyEpoch)
		partition.AppendTogether([]partition.Part{part(a, "a2", &got)}, anyEpoch)
		gathered("after")
		barrier(t, a)
		if want := []string{"a 0 false", "b 0 false", "a 1 false", "a 2 false", "a 3 false"}; !slices.Equal(got, want) {
			t.Errorf("real %v: answered %q, want %q", real, got, want)
		}
		w.Restart()
		if got := values(t, w.Partition("a")); !slices.Equal(got, []string{"0=before", "1=a1", "2=a2", "3=after", "4=barrier"}) {
			t.Errorf("real %v: a holds %q", real, got)
		}
		if got := values(t, w.Partition("b")); !slices.Equal(got, []string{"0=b0"}) {
			t.Errorf("real %v: b holds %q", real, got)
		}
	}
}

func TestNoCutLeavesOnePartWithoutTheOther(t *testing.T) {
	for name, cut := range map[string]func(t *testing.T, w *partitiontest.World){
		"the frame":         func(_ *testing.T, w *partitiontest.World) { w.Frames.Lose(1) },
		"the pointed bytes": func(t *testing.T, w *partitiontest.World) { cutFile(t, logFile(w, "a", 0), -1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := partitiontest.New(t).Start()
			w.Journal.InlineMax = 1000 // the part of a goes as a pointer, that of b inside the frame
			a, b := w.Create("a"), w.Create("b")
			barrier(t, a)
			barrier(t, b)
			w.Journal.Hold()
			done := make(chan bool)
			var got []string
			last := part(b, "b1", &got)
			last.Done = func(partition.AppendResult) { close(done) }
			partition.AppendTogether([]partition.Part{part(a, strings.Repeat("x", 5000), &got), last}, anyEpoch)
			if n := w.Journal.Staged(); n != 1 {
				t.Errorf("%d groups: they might land in two frames", n)
			}
			w.Journal.Release()
			<-done
			w.Kill()
			cut(t, w)
			w.Start()
			for _, topic := range []string{"a", "b"} {
				if got := values(t, w.Partition(topic)); !slices.Equal(got, []string{"0=barrier"}) {
					t.Errorf("%s holds %q", topic, got)
				}
			}
		})
	}
}

func TestAPartThatCannotBeWrittenTakesTheOthersBack(t *testing.T) {
	w := partitiontest.New(t)
	fs := disktest.New(disk.OS{})
	w.FS = fs
	w.Start()
	a, b := w.Create("a"), w.Create("b")
	small := w.Topic
	small.MaxMessageBytes = 100
	for _, tt := range []struct {
		name  string
		fault func()
		is    error
	}{
		{"write", func() {
			fs.FailWrite(func(name string) bool { return strings.Contains(name, "/b-0/") && strings.HasSuffix(name, ".log") }, errDisk, 1)
		}, errDisk},
		{"too large", func() { b.SetConfig(small) }, partition.ErrTooLarge},
	} {
		tt.fault()
		var failed []error
		refused := func(p *partition.Partition) partition.Part {
			one := part(p, strings.Repeat("x", 200), new([]string))
			one.Done = func(r partition.AppendResult) { failed = append(failed, r.Err) }
			return one
		}
		partition.AppendTogether([]partition.Part{refused(a), refused(b)}, anyEpoch)
		if len(failed) != 2 || !errors.Is(failed[0], tt.is) || !errors.Is(failed[1], tt.is) {
			t.Errorf("%s: answered %v", tt.name, failed)
		}
		if a.End() != 0 || b.End() != 0 {
			t.Errorf("%s: logs end at %d and %d", tt.name, a.End(), b.End())
		}
	}
	b.SetConfig(w.Topic)
	var got []string
	partition.AppendTogether([]partition.Part{part(a, "a0", &got), part(b, "b0", &got)}, anyEpoch)
	barrier(t, b)
	if want := []string{"a 0 false", "b 0 false"}; !slices.Equal(got, want) {
		t.Errorf("afterwards: %q", got)
	}
}

func TestAFailedCommitTakesEveryPartBack(t *testing.T) {
	w := partitiontest.New(t).Start()
	a, b := w.Create("a"), w.Create("b")
	w.Journal.Hold()
	w.Journal.Fail(1)
	var got []string
	done := make(chan bool)
	last := part(b, "b0", &got)
	answer := last.Done
	last.Done = func(r partition.AppendResult) { answer(r); close(done) }
	partition.AppendTogether([]partition.Part{part(a, "a0", &got), last}, anyEpoch)
	w.Journal.Release()
	<-done
	if want := []string{"a -1 true", "b -1 true"}; !slices.Equal(got, want) {
		t.Errorf("answered %q", got)
	}
	if a.End() != 0 || b.End() != 0 {
		t.Errorf("logs end at %d and %d", a.End(), b.End())
	}
}

func TestAPartitionMayNotComeTwice(t *testing.T) {
	w := partitiontest.New(t).Start()
	a := w.Create("a")
	var got []string
	partition.AppendTogether([]partition.Part{part(a, "1", &got), part(a, "2", &got)}, anyEpoch)
	if want := []string{"a -1 true", "a -1 true"}; !slices.Equal(got, want) {
		t.Errorf("answered %q", got)
	}
}
