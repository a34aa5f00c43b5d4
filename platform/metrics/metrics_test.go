package metrics

import (
	"errors"
	"strings"
	"testing"
)

func TestAScrapeIsTheTextFormat(t *testing.T) {
	var b strings.Builder
	m := NewWriter(&b)
	m.Counter("writes_total", 3)
	m.Gauge("used_bytes", 1.5, "share", `a "b" \ c`+"\n", "board", "1")
	m.Gauge("used_bytes", -2, "share", "d")
	want := `# TYPE writes_total counter
writes_total 3
# TYPE used_bytes gauge
used_bytes{share="a \"b\" \\ c\n",board="1"} 1.5
used_bytes{share="d"} -2
`
	if b.String() != want || m.Err() != nil {
		t.Errorf("have\n%s%v\nwant\n%s", &b, m.Err(), want)
	}
}

func TestAProcessTellsItsMemory(t *testing.T) {
	var b strings.Builder
	m := NewWriter(&b)
	m.Process()
	for _, name := range []string{"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "go_goroutines"} {
		if !strings.Contains(b.String(), "\n"+name+" ") {
			t.Errorf("no %s in\n%s", name, &b)
		}
	}
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
	m.Gauge("a", 1)
	m.Gauge("b", 1)
	if !errors.Is(m.Err(), errGone) || g.writes != 1 {
		t.Errorf("%v after %d writes, want %v after 1", m.Err(), g.writes, errGone)
	}
}
