package metrics

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestAScrapeIsTheTextFormat(t *testing.T) {
	var b strings.Builder
	m := NewWriter(&b)
	m.Counter("writes_total", `Bytes \ "so far".`, 3)
	m.Gauge("used_bytes", "In\nuse.", 1.5, "share", `a "b" \ c`+"\n", "board", "1")
	m.Gauge("used_bytes", "Not said twice.", -2, "share", "d\xff€")
	m.Gauge("left_days", "Days.", math.Inf(1))
	m.Gauge("large", "A whole number.", 1<<40)
	m.Histogram("took_seconds", "Time.", []float64{0.1, 2.5}, []int64{1, 0, 2}, 7.25)
	m.Histogram("took_seconds", "", []float64{1}, []int64{0, 0}, 0, "path", "x")
	want := `# HELP writes_total Bytes \\ "so far".
# TYPE writes_total counter
writes_total 3
# HELP used_bytes In\nuse.
# TYPE used_bytes gauge
used_bytes{share="a \"b\" \\ c\n",board="1"} 1.5
used_bytes{share="d` + "\uFFFD" + `€"} -2
# HELP left_days Days.
# TYPE left_days gauge
left_days +Inf
# HELP large A whole number.
# TYPE large gauge
large 1099511627776
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le="0.1"} 1
took_seconds_bucket{le="2.5"} 1
took_seconds_bucket{le="+Inf"} 3
took_seconds_sum 7.25
took_seconds_count 3
took_seconds_bucket{path="x",le="1"} 0
took_seconds_bucket{path="x",le="+Inf"} 0
took_seconds_sum{path="x"} 0
took_seconds_count{path="x"} 0
`
	if err := m.Flush(); b.String() != want || err != nil {
		t.Errorf("have\n%s%v\nwant\n%s", &b, err, want)
	}
}

func TestAProcessTellsItsMemory(t *testing.T) {
	var b strings.Builder
	m := NewWriter(&b)
	m.Process()
	if err := m.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "go_goroutines"} {
		if !strings.Contains(b.String(), "\n"+name+" ") {
			t.Errorf("no %s in\n%s", name, &b)
		}
	}
}

func TestALongScrapeGoesOutInPieces(t *testing.T) {
	var b pieces
	m := NewWriter(&b)
	for range 1000 {
		m.Gauge("a", "A.", 1, "label", "value")
	}
	if err := m.Flush(); err != nil || bytes.Count(b.all, []byte("\n")) != 1002 {
		t.Errorf("%v, %d lines", err, bytes.Count(b.all, []byte("\n")))
	}
	if b.writes < 5 || b.largest > pieceSize+1024 {
		t.Errorf("%d writes, the largest of %d bytes", b.writes, b.largest)
	}
}

type pieces struct {
	all             []byte
	writes, largest int
}

func (p *pieces) Write(b []byte) (int, error) {
	p.all = append(p.all, b...)
	p.writes++
	p.largest = max(p.largest, len(b))
	return len(b), nil
}

type gone struct{ writes int }

var errGone = errors.New("the scraper has gone")

func (g *gone) Write([]byte) (int, error) {
	g.writes++
	return 0, errGone
}

func TestAScraperThatLeavesEndsTheScrape(t *testing.T) {
	var g gone
	m := NewWriter(&g)
	for range 1000 {
		m.Gauge("a", "A.", 1)
	}
	if err := m.Flush(); !errors.Is(err, errGone) || g.writes != 1 {
		t.Errorf("%v after %d writes, want %v after 1", err, g.writes, errGone)
	}
}

func TestASampleAllocatesNothing(t *testing.T) {
	m := NewWriter(&pieces{all: make([]byte, 0, 1<<20)})
	topic := "climate"
	if n := testing.AllocsPerRun(1000, func() { m.Gauge("a", "A.", 1.5, "topic", topic, "partition", "0") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
