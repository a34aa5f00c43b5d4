package partition_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
)

// model is what one partition must be: the acknowledged records and nothing else.
type model struct {
	w          *partitiontest.World
	p          *partition.Partition
	start, end int64
	values     map[int64]string
	next       int // makes values differ
	failed     bool
}

func (m *model) value() string {
	m.next++
	return fmt.Sprintf("v%d", m.next)
}

func (m *model) want() (v []string) {
	for o := m.start; o < m.end; o++ {
		v = append(v, fmt.Sprintf("%d=%s", o, m.values[o]))
	}
	return v
}

// burst issues several appends of both kinds at once; order of the calls is order of the records.
func (m *model) burst(t *rapid.T) {
	type call struct {
		values []string
		result partition.AppendResult
	}
	n := rapid.IntRange(1, 6).Draw(t, "appends")
	if m.w.Journal != nil {
		m.w.Journal.Hold()
		if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
			m.w.Journal.Fail(1)
			m.failed = true
		}
	}
	calls := make([]call, n)
	var wg sync.WaitGroup
	for i := range calls {
		c := &calls[i]
		for range rapid.IntRange(1, 3).Draw(t, "records") {
			c.values = append(c.values, m.value())
		}
		wg.Add(1)
		done := func(r partition.AppendResult) { c.result = r; wg.Done() }
		if rapid.Bool().Draw(t, "gathered") {
			var recs []record.Record
			for _, v := range c.values {
				recs = append(recs, record.Record{Value: []byte(v)})
			}
			m.p.AppendRecords(recs, partition.AppendOptions{Epoch: -1}, done)
		} else {
			m.p.Append(partitiontest.Batch(c.values...), partition.AppendOptions{Epoch: -1}, done)
		}
	}
	if got, err := partitiontest.Values(m.p); m.w.Journal != nil && (err != nil || !slices.Equal(got, m.want())) {
		t.Fatalf("unsynced records are served: %v, %v", got, err)
	}
	if m.w.Journal != nil {
		m.w.Journal.Release()
	}
	wg.Wait()
	for _, c := range calls {
		switch {
		case c.result.Err != nil && !m.failed:
			t.Fatalf("append: %v", c.result.Err)
		case c.result.Err != nil:
		case c.result.Base != m.end:
			t.Fatalf("append answered %d, want %d", c.result.Base, m.end)
		default:
			for _, v := range c.values {
				m.values[m.end] = v
				m.end++
			}
		}
	}
	if m.w.Journal != nil {
		m.w.Journal.Hold() // a failing commit fails what comes until it is over
		m.w.Journal.Fail(0)
		m.w.Journal.Release()
	}
	m.failed = false
}

func (m *model) deleteRecords(t *rapid.T) {
	before := rapid.Int64Range(m.start, m.end+1).Draw(t, "before")
	result := make(chan error, 1)
	var low int64
	m.p.DeleteRecords(before, func(l int64, err error) { low = l; result <- err })
	err := <-result
	if before > m.end {
		if !errors.Is(err, partition.ErrOffsetOutOfRange) {
			t.Fatalf("delete records before %d of %d: %v", before, m.end, err)
		}
		return
	}
	if m.start = max(m.start, before); err != nil || low != m.start {
		t.Fatalf("delete records before %d: start %d, want %d, %v", before, low, m.start, err)
	}
}

func (m *model) retain(t *rapid.T) {
	r, err := m.p.Retain(m.w.Clock.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	m.start = max(m.start, r.To)
}

func (m *model) dropOldest(t *rapid.T) {
	r, err := m.p.DropOldest(partition.Delivered)
	if err != nil {
		t.Fatal(err)
	}
	m.start = max(m.start, r.To)
}

func (m *model) truncate(t *rapid.T) {
	to := rapid.Int64Range(m.start, m.end).Draw(t, "to")
	end, err := m.p.Truncate(to)
	if err != nil || end > to {
		t.Fatalf("truncate to %d: %d, %v", to, end, err)
	}
	m.end, m.start = end, min(m.start, end)
}

func (m *model) checkpoint(t *rapid.T) {
	if err := m.w.Store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
}

func (m *model) restart(t *rapid.T) {
	if rapid.Bool().Draw(t, "killed") && !m.w.Real {
		m.w.Kill()
	} else {
		m.w.Stop()
	}
	if err := m.w.TryStart(); err != nil {
		t.Fatal(err)
	}
	if m.w.Report.Gaps > 0 {
		t.Fatalf("recovery lost something: %v", m.w.Report.Lost)
	}
	m.p = m.w.Partition("a")
}

func (m *model) check(t *rapid.T) {
	if err := m.w.Store.Check(); err != nil {
		t.Fatal(err)
	}
	got, err := partitiontest.Values(m.p)
	if err != nil || !slices.Equal(got, m.want()) {
		t.Fatalf("log holds %v (%v), want %v", got, err, m.want())
	}
	if m.p.Start() != m.start || m.p.High() != m.end || m.p.End() != m.end {
		t.Fatalf("start %d high %d end %d, want %d %d %d", m.p.Start(), m.p.High(), m.p.End(), m.start, m.end, m.end)
	}
}

func testModel(t *testing.T, real bool) {
	rapid.Check(t, func(rt *rapid.T) {
		w := partitiontest.New(t)
		w.Real = real
		w.Topic.SegmentBytes = rapid.Int64Range(100, 1000).Draw(rt, "segment.bytes")
		w.Topic.RetentionBytes = rapid.Int64Range(500, 4000).Draw(rt, "retention.bytes")
		w.Start()
		defer func() {
			if w.Store != nil { // a failed case: thousands of them follow
				w.Kill()
			}
		}()
		if !real {
			w.Journal.InlineMax = rapid.SampledFrom([]int{0, 1, 100}).Draw(rt, "inline")
		}
		m := &model{w: w, values: make(map[int64]string)}
		m.p = w.Create("a")
		rt.Repeat(map[string]func(*rapid.T){
			"append":     m.burst,
			"delete":     m.deleteRecords,
			"retain":     m.retain,
			"drop":       m.dropOldest,
			"truncate":   m.truncate,
			"checkpoint": m.checkpoint,
			"restart":    m.restart,
			"":           m.check,
		})
		w.Stop()
	})
}

func TestPartitionIsItsAcknowledgedRecords(t *testing.T) { testModel(t, false) }

func TestPartitionIsItsAcknowledgedRecordsOnTheRealJournal(t *testing.T) { testModel(t, true) }
