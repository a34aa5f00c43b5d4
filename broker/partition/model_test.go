package partition_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/partition"
	"millrace/broker/partition/partitiontest"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// model is what one partition must be: the acknowledged records and nothing else.
type model struct {
	w          *partitiontest.World
	p          *partition.Partition
	start, end int64
	values     map[int64]string
	next       int // makes values differ
	failed     bool
	why        []segment.Cause // each offset below the start went
	forgets    bool            // it changed too often to be remembered
	need       int64           // from here on a link needs the log
	class      int             // of the link
}

// Needed is what the store asks.
func (m *model) Needed(topic string, id [16]byte, index int32) (int64, int, bool) {
	if topic != "a" || id != partitiontest.ID("a") || index != 0 {
		panic("asked for something else")
	}
	return m.need, m.class, m.class != partition.Delivered
}

// needed is from where on the log is needed, if it is.
func (m *model) needed() int64 {
	if m.class == partition.Delivered {
		return math.MaxInt64
	}
	return m.need
}

// deliver has the link go on, or somebody decide that it has to go back, or nobody want the topic.
func (m *model) deliver(t *rapid.T) {
	m.need = rapid.Int64Range(0, m.end+1).Draw(t, "need")
	m.class = rapid.SampledFrom([]int{0, 1, 7, partition.Delivered}).Draw(t, "class")
}

// moved takes in that the start moved.
func (m *model) moved(to int64, why segment.Cause) {
	for m.start = max(m.start, to); int64(len(m.why)) < m.start; {
		m.why = append(m.why, why)
	}
}

// causes compares why the oldest went. Of what changed too often it is not known.
func (m *model) causes(t *rapid.T) {
	runs := len(slices.Compact(slices.Clone(m.why)))
	m.forgets = m.forgets || runs >= 8
	next, forgotten := int64(0), m.forgets
	for _, g := range m.p.Gone(0) {
		if g.First != next {
			t.Fatalf("%+v after offset %d", g, next)
		}
		forgotten = forgotten && g.Cause == segment.Unknown
		for ; next <= g.Last; next++ {
			if !forgotten && g.Cause != m.why[next] {
				t.Fatalf("offset %d went for %s, want %s: %v", next, g.Cause, m.why[next], m.p.Gone(0))
			}
		}
	}
	if next != m.start || !m.forgets && len(m.p.Gone(0)) != runs {
		t.Fatalf("%v of %d offsets, want %v", m.p.Gone(0), m.start, m.why)
	}
	if m.start > 0 && m.p.StartCause() != m.why[m.start-1] {
		t.Fatalf("the start moved last for %s, want %s", m.p.StartCause(), m.why[m.start-1])
	}
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
	if m.moved(before, segment.ByClient); err != nil || low != m.start {
		t.Fatalf("delete records before %d: start %d, want %d, %v", before, low, m.start, err)
	}
}

func (m *model) retain(t *rapid.T) {
	r, err := m.p.Retain(m.w.Clock.UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	if r.To > max(m.start, m.needed()) || r.Needed != r.To {
		t.Fatalf("retention of what is needed from %d on: %+v", m.need, r)
	}
	m.moved(r.To, segment.Retention)
}

func (m *model) dropOldest(t *rapid.T) {
	class := rapid.SampledFrom([]int{0, 1, 7, partition.Delivered}).Draw(t, "at least")
	offer, ok := m.p.Offer()
	r, err := m.p.DropOldest(class)
	if err != nil {
		t.Fatal(err)
	}
	if ok && offer.Class >= class && r.Segments == 0 || r.Segments > 0 && r.To > m.start && offer.Class < class {
		t.Fatalf("offered %+v, gave %+v", offer, r)
	}
	if ok && (offer.Class == partition.Delivered) != (r.Needed == r.To) && offer.Class >= class {
		t.Fatalf("offered %+v, gave %+v", offer, r)
	}
	if r.To > m.start && (r.Needed != min(max(m.start, m.needed()), r.To) || (r.NeededBytes > 0) != (r.Needed < r.To) || r.NeededBytes > r.Bytes) {
		t.Fatalf("needed from %d on, start %d: %+v", m.need, m.start, r)
	}
	m.moved(r.To, segment.DiskFull)
}

func (m *model) truncate(t *rapid.T) {
	to := rapid.Int64Range(m.start, m.end).Draw(t, "to")
	end, err := m.p.Truncate(to)
	if err != nil || end > to {
		t.Fatalf("truncate to %d: %d, %v", to, end, err)
	}
	m.end, m.start = end, min(m.start, end)
	m.why = m.why[:m.start]
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
	m.w.Store.SetNeeds(m)
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
	m.causes(t)
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
		m := &model{w: w, values: make(map[int64]string), class: partition.Delivered}
		m.p = w.Create("a")
		w.Store.SetNeeds(m)
		rt.Repeat(map[string]func(*rapid.T){
			"append":     m.burst,
			"delete":     m.deleteRecords,
			"retain":     m.retain,
			"drop":       m.dropOldest,
			"deliver":    m.deliver,
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
