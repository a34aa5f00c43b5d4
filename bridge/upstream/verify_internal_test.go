package upstream

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"millrace/broker/record"
)

// sentCopy is a record upstream, with what a test knows of it.
type sentCopy struct {
	record.Record
	part   int32
	offset int64 // on the board, -1: somebody else's
	lane   Lane
}

// ends are two logs that a comparison is held against: what partitions of a board have, and what arrived in one partition upstream.
type ends struct {
	board      map[int32][]record.Record
	far        []sentCopy
	provenance bool
	mine, have int32
	held       int // after how many arrivals the windows are let go each time, 0: never
}

// compare reads both back.
func (e *ends) compare(t rapid.TB, size int, from int64, gaps spans, compacted bool, skip ...Range) *comparison {
	c := &comparison{size: size, told: func(*strand) (spans, error) { return gaps, nil }}
	for i := range e.mine {
		if list := e.board[i]; e.mine != e.have && e.have > 0 || i == 0 {
			s := newStrand(i, from, int64(len(list)), max(0, from-8), int64(len(list)))
			s.skip, s.compacted = skip, compacted
			c.strands = append(c.strands, s)
		}
	}
	c.walk = func(s *strand, from, end int64, fn func(*print) bool) error {
		after := from
		for i := from; i < min(end, int64(len(e.board[s.index]))); i++ {
			r := e.board[s.index][i]
			if place(s.index, e.mine, e.have, r.Key) != 0 {
				continue
			}
			if !fn(&print{content: contentOf(&r), offset: i, after: after, at: r.Timestamp}) {
				break
			}
			after = i + 1
		}
		return nil
	}
	for i, r := range e.far {
		if e.held > 0 && i%e.held == 0 {
			c.close()
		}
		r.Headers = slices.Clone(r.Headers)
		add := func(k, v string) { r.Headers = append(r.Headers, record.Header{Key: k, Value: []byte(v)}) }
		add(HeaderLane, r.lane.String())
		if e.provenance && r.offset >= 0 {
			add(HeaderBoard, "b")
			add(HeaderTopic, "t")
			add(HeaderPartition, strconv.Itoa(int(r.part)))
			add(HeaderOffset, strconv.FormatInt(r.offset, 10))
		}
		a := arrivalOf(&r.Record, false, "b", "t")
		if err := c.take(&a); err != nil {
			t.Fatal(err)
		}
		if len(c.strangers) > strangersMax || len(c.others) > othersMax {
			t.Fatalf("%d wait, %d are kept", len(c.strangers), len(c.others))
		}
		for _, s := range c.strands {
			for _, tr := range s.tracks {
				if tr != nil && len(tr.list) > size {
					t.Fatalf("a window of %d, want at most %d", len(tr.list), size)
				}
			}
		}
	}
	if err := c.finish(); err != nil {
		t.Fatal(err)
	}
	return c
}

// inWords is what a comparison found, in words.
func inWords(c *comparison) string {
	out := ""
	for _, s := range c.strands {
		out += fmt.Sprintf("%d: missing %v doubled %v disordered %v different %v lost %d let go %d; ", s.index, s.missing, s.doubled, s.disordered, s.different, s.lost, s.letGo)
	}
	return out + fmt.Sprintf("foreign %d", c.foreign)
}

// drawLogs draws what boards have, and what arrived of it: nothing is wrong yet.
func drawLogs(t *rapid.T, unique bool) (e *ends, size int) {
	e = &ends{board: map[int32][]record.Record{}, provenance: rapid.Bool().Draw(t, "provenance"), mine: 1, have: 1}
	if rapid.IntRange(0, 3).Draw(t, "by key") == 0 {
		e.mine, e.have = rapid.Int32Range(1, 4).Draw(t, "mine"), 5
	}
	e.held = rapid.SampledFrom([]int{0, 0, 1, 3, 50}).Draw(t, "held")
	variety := rapid.SampledFrom([]int{2, 50, 1000}).Draw(t, "variety") // how much is alike
	stamp, least := int64(1), 0
	lanes := rapid.Bool().Draw(t, "lanes")
	if lanes || e.mine > 1 {
		least = 1 // records that are equal in all, their stamps too, cannot be told apart where they come by several ways
	}
	for i := range e.mine {
		for range rapid.IntRange(20, 400).Draw(t, "records") {
			stamp += int64(rapid.IntRange(least, 2).Draw(t, "ms"))
			r := record.Record{Timestamp: stamp, Value: fmt.Appendf(nil, "v%d", rapid.IntRange(0, variety).Draw(t, "value"))}
			if unique {
				r.Value = fmt.Appendf(nil, "%s of %d-%d", r.Value, i, len(e.board[i]))
			}
			if e.mine != e.have || rapid.Bool().Draw(t, "keyed") {
				r.Key = fmt.Appendf(nil, "k%d", rapid.IntRange(0, variety).Draw(t, "key"))
			}
			if rapid.IntRange(0, 3).Draw(t, "headers") == 0 {
				r.Headers = []record.Header{{Key: "h", Value: []byte("x")}, {Key: ownHeader + "cluster", Value: []byte("other")}}
			}
			e.board[i] = append(e.board[i], r)
		}
	}
	next := make([]int, e.mine)
	for left := true; left; {
		left = false
		for i := range e.mine {
			list := e.board[i]
			run := min(rapid.IntRange(0, 90).Draw(t, "run"), len(list)-next[i])
			at := next[i]
			next[i] += run
			left = left || next[i] < len(list)
			if lanes && run > 3 { // the later half by the live lane, then the first by the other
				half := at + run/2
				e.send(i, half, at+run, Live)
				e.send(i, at, half, Backfill)
				continue
			}
			e.send(i, at, at+run, Live)
		}
	}
	// Somebody else writes, too.
	for range rapid.IntRange(0, 60).Draw(t, "foreign") {
		at := rapid.IntRange(0, len(e.far)).Draw(t, "at")
		e.far = slices.Insert(e.far, at, sentCopy{offset: -1, Record: record.Record{
			Timestamp: stamp, Key: []byte("other"), Value: fmt.Appendf(nil, "o%d", at), Headers: []record.Header{{Key: "o"}},
		}})
	}
	return e, rapid.SampledFrom([]int{8, 64, 512}).Draw(t, "window")
}

func (e *ends) send(part int32, from, to int, l Lane) {
	for o := from; o < to; o++ {
		r := e.board[part][o]
		if place(part, e.mine, e.have, r.Key) == 0 {
			e.far = append(e.far, sentCopy{r, part, int64(o), l})
		}
	}
}

// own are the places of records of the board in what arrived.
func (e *ends) own() (list []int) {
	for i, r := range e.far {
		if r.offset >= 0 {
			list = append(list, i)
		}
	}
	return list
}

func (e *ends) others() (n int64) { return int64(len(e.far) - len(e.own())) }

func TestWhatIsRightIsFoundRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, size := drawLogs(t, false)
		foreign := e.others()
		c := e.compare(t, size, 0, nil, false)
		for _, s := range c.strands {
			if s.missing.Count+s.doubled.Count+s.disordered.Count+s.different.Count+s.lost+s.letGo > 0 || c.foreign != foreign {
				t.Fatalf("%s; %d are foreign", inWords(c), foreign)
			}
		}
	})
}

// sum is what all strands found together.
func total(c *comparison) (missing, doubled, disordered, different, lost, letGo int64) {
	for _, s := range c.strands {
		missing += s.missing.Count
		doubled += s.doubled.Count
		disordered += s.disordered.Count
		different += s.different.Count
		lost += s.lost
		letGo += s.letGo
	}
	return missing, doubled, disordered, different, lost, letGo
}

// first is the fault of the strand that a record is of.
func (c *comparison) first(part int32, of func(*strand) Fault) int64 {
	for _, s := range c.strands {
		if s.index == part {
			return of(s).First
		}
	}
	return -2
}

// Each fault is found where it is, and nothing else is.
func TestEachFaultIsFound(t *testing.T) {
	kinds := []string{"drop", "drop told", "double", "swap", "key", "value", "headers", "null", "two of three", "lane of its own"}
	rapid.Check(t, func(t *rapid.T) {
		e, size := drawLogs(t, true)
		own := e.own()
		if len(own) < 4 {
			t.Skip("too little arrived")
		}
		foreign := e.others()
		i := own[rapid.IntRange(0, len(own)-1).Draw(t, "victim")]
		r := e.far[i]
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		var missing, doubled, disordered, different, lost int64
		var gaps spans
		of := func(s *strand) Fault { return s.missing }
		switch kind {
		case "drop", "drop told":
			e.far = slices.Delete(e.far, i, i+1)
			if missing = 1; kind == "drop told" {
				gaps.add(Range{r.offset, r.offset + 1})
				missing, lost = 0, 1
			}
		case "double", "lane of its own":
			again := r
			if kind != "double" {
				again.lane = 1 - again.lane
			}
			e.far = slices.Insert(e.far, rapid.IntRange(i+1, len(e.far)).Draw(t, "again"), again)
			doubled, of = 1, func(s *strand) Fault { return s.doubled }
		case "swap":
			j := slices.IndexFunc(e.far[i+1:], func(o sentCopy) bool { return o.offset >= 0 && o.part == r.part && o.lane == r.lane })
			if j < 0 {
				t.Skip("nothing comes after it")
			}
			j += i + 1
			e.far[i], e.far[j] = e.far[j], e.far[i]
			disordered, of = 1, func(s *strand) Fault { return s.disordered }
		default:
			different, of = 1, func(s *strand) Fault { return s.different }
			c := &e.far[i]
			switch kind {
			case "key":
				c.Key = append([]byte("altered"), c.Key...)
			case "value":
				c.Value = append([]byte("altered"), c.Value...)
			case "headers":
				c.Headers = append([]record.Header{{Key: "altered"}}, c.Headers...)
			case "null":
				if c.Key = []byte{}; r.Key != nil {
					c.Key = nil
				}
			case "two of three":
				c.Key, c.Value = []byte("altered"), nil
				if !e.provenance {
					missing, different, foreign = 1, 0, foreign+1
					of = func(s *strand) Fault { return s.missing }
				}
			}
		}
		c := e.compare(t, size, 0, gaps, false)
		m, d, o, x, l, _ := total(c)
		if kind == "lane of its own" && o == 1 && c.first(r.part, func(s *strand) Fault { return s.disordered }) == r.offset {
			disordered = 1 // which of the two lanes has the first is not known where both wait
		}
		if m != missing || d != doubled || o != disordered || x != different || l != lost || c.foreign != foreign {
			t.Fatalf("%s of %d-%d: %s; %d are foreign", kind, r.part, r.offset, inWords(c), foreign)
		}
		if at := c.first(r.part, of); at != r.offset && lost == 0 {
			t.Fatalf("%s of %d-%d is said to be at %d", kind, r.part, r.offset, at)
		}
	})
}

// Much that is wrong at once is found, as much as it is.
func TestManyFaultsAreFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, size := drawLogs(t, true)
		var missing, doubled, different int64
		var far []sentCopy
		for _, r := range e.far {
			dice := -1
			if r.offset >= 0 {
				dice = rapid.IntRange(0, 12).Draw(t, "dice")
			}
			switch dice {
			case 0:
				missing++
				continue
			case 1:
				doubled++
				far = append(far, r)
			case 2:
				different++
				r.Value = append([]byte("altered"), r.Value...)
			}
			far = append(far, r)
		}
		foreign := e.others()
		e.far = far
		c := e.compare(t, size, 0, nil, false)
		m, d, o, x, l, g := total(c)
		if m != missing || d != doubled || x != different || o+l+g > 0 || c.foreign != foreign {
			t.Fatalf("%d missing, %d doubled, %d different, %d foreign; found %s", missing, doubled, different, foreign, inWords(c))
		}
	})
}

// A log that is sent again as a whole, a long run that is not there, and one of somebody else are told for what they are, though
// they are longer than every window.
func TestLongRuns(t *testing.T) {
	const n = 6 * strangersMax
	sent := func(first, end int64) *ends {
		e := &ends{board: map[int32][]record.Record{}, mine: 1, have: 1}
		for i := range int64(n) {
			e.board[0] = append(e.board[0], record.Record{Timestamp: i / 10, Value: fmt.Append(nil, i)})
		}
		e.send(0, int(first), int(end), Live)
		return e
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range 4 {
		e := sent(0, n)
		e.send(0, 0, n, Live)
		c := e.compare(t, 512, 0, nil, false)
		if _, d, _, _, _, _ := total(c); d != n || c.foreign > 0 {
			t.Errorf("sent again: %s", inWords(c))
		}
		hole := rng.IntN(n)
		end := hole + rng.IntN(n-hole+1)
		e = sent(0, int64(hole))
		e.send(0, end, n, Live)
		c = e.compare(t, 512, 0, nil, false)
		if m, d, o, x, _, _ := total(c); m != int64(end-hole) || d+o+x+c.foreign > 0 {
			t.Errorf("%d to %d are not there: %s", hole, end, inWords(c))
		}
		e = sent(0, int64(hole))
		for i := range 3*strangersMax + 7 {
			e.far = append(e.far, sentCopy{offset: -1, Record: record.Record{Value: fmt.Append(nil, "other", i)}})
		}
		e.send(0, hole, n, Live)
		c = e.compare(t, 512, 0, nil, false)
		if m, d, o, x, _, _ := total(c); m+d+o+x > 0 || c.foreign != 3*strangersMax+7 {
			t.Errorf("somebody else writes at %d: %s", hole, inWords(c))
		}
		// The live lane leaves a backlog to the other one.
		e = sent(0, int64(hole))
		e.send(0, end, n, Live)
		e.send(0, hole, end, Backfill)
		c = e.compare(t, 512, 0, nil, false)
		if m, d, o, x, _, _ := total(c); m+d+o+x+c.foreign > 0 {
			t.Errorf("%d to %d came by the other lane: %s", hole, end, inWords(c))
		}
	}
}

func TestOnlyTheRangeIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, size := drawLogs(t, true)
		if e.mine != e.have {
			t.Skip("one partition is enough")
		}
		n := int64(len(e.board[0]))
		from := rapid.Int64Range(0, n).Draw(t, "from")
		a := rapid.Int64Range(from, n).Draw(t, "first")
		b := rapid.Int64Range(a, n).Draw(t, "end")
		before := 0
		e.far = slices.DeleteFunc(e.far, func(r sentCopy) bool {
			gone := r.offset >= a && r.offset < b || r.offset >= 0 && r.offset < from && r.offset%3 == 0
			if gone && r.offset < from {
				before++
			}
			return gone
		})
		var skip []Range
		if a < b {
			skip = append(skip, Range{a, b})
		}
		c := e.compare(t, size, from, nil, false, skip...)
		if m, d, o, x, l, g := total(c); m+d+o+x+l+g > 0 {
			t.Fatalf("from %d, without %d to %d: %s", from, a, b, inWords(c))
		}
	})
}

func TestWhatCompactionTookIsNotMissing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &ends{board: map[int32][]record.Record{}, mine: 1, have: 1}
		last := map[string]int64{}
		for i := range rapid.Int64Range(1, 200).Draw(t, "records") {
			r := record.Record{Key: fmt.Append(nil, rapid.IntRange(0, 20).Draw(t, "key")), Value: fmt.Append(nil, i)}
			if rapid.IntRange(0, 5).Draw(t, "tombstone") == 0 {
				r.Value = nil
			}
			last[string(r.Key)] = i
			e.board[0] = append(e.board[0], r)
		}
		e.send(0, 0, len(e.board[0]), Live)
		var missing, letGo int64
		e.far = slices.DeleteFunc(e.far, func(r sentCopy) bool {
			gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
			switch {
			case !gone:
			case last[string(r.Key)] != r.offset || r.Value == nil:
				letGo++
			default:
				missing++
			}
			return gone
		})
		c := e.compare(t, 64, 0, nil, true)
		if m, d, o, x, _, g := total(c); m != missing || g != letGo || d+o+x > 0 {
			t.Fatalf("%d missing, %d let go: %s", missing, letGo, inWords(c))
		}
	})
}

// Whatever the size, a comparison takes what its windows take: here half a million records by two lanes, and somebody else's between.
func TestAComparisonTakesNoMemory(t *testing.T) {
	const n = 250_000
	of := func(i int64) record.Record {
		return record.Record{Timestamp: i / 3, Value: strconv.AppendInt(nil, i, 10)}
	}
	s := newStrand(0, 0, 2*n, 0, 2*n)
	c := &comparison{strands: []*strand{s}, size: 1024, told: func(*strand) (spans, error) { return nil, nil }}
	c.walk = func(_ *strand, from, end int64, fn func(*print) bool) error {
		for i := from; i < end; i++ {
			r := of(i)
			if !fn(&print{content: contentOf(&r), offset: i, after: i, at: r.Timestamp}) {
				break
			}
		}
		return nil
	}
	before := heapNow()
	for i := range int64(n) {
		for _, a := range []struct {
			offset int64
			lane   Lane
		}{{i + n, Live}, {i, Backfill}} {
			r := of(a.offset)
			one := arrival{content: contentOf(&r), at: r.Timestamp, lane: a.lane, part: -1, offset: -1}
			if err := c.take(&one); err != nil {
				t.Fatal(err)
			}
		}
		if i%100 == 0 {
			if err := c.take(&arrival{content: content{1, 2, uint64(i)}, at: i, part: -1, offset: -1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	took := heapNow() - before
	if err := c.finish(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d KiB; %s", took>>10, inWords(c))
	if took > 2<<20 || s.found != 2*n || s.missing.Count+s.doubled.Count+s.disordered.Count > 0 || c.foreign != n/100 {
		t.Errorf("%d KiB; %s", took>>10, inWords(c))
	}
	runtime.KeepAlive(c)
}

// heapNow is how much the heap holds.
func heapNow() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
