package broker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// family is one metric of a scrape.
type family struct {
	name, kind, help string
	labels           []string // of its series, sorted, le not among them
	series           map[string]float64
}

var (
	metricName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)$`)
	labelPair  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)`)
)

// scraped reads a scrape as strictly as the format (version 0.0.4) and its conventions ask: HELP and TYPE before each
// metric's lines, which follow each other; no series twice; counters that end in _total; base units.
func scraped(text string) (all map[string]*family, err error) {
	all = map[string]*family{}
	var f *family
	if !strings.HasSuffix(text, "\n") || !utf8.ValidString(text) {
		return nil, errors.New("no line feed at the end, or no UTF-8")
	}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		fault := func(what string) error { return fmt.Errorf("line %d: %s: %s", i+1, what, line) }
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			switch {
			case all[name] != nil:
				return nil, fault("a family in two pieces")
			case f != nil && (f.kind == "" || len(f.series) == 0):
				return nil, fault("the one before has no TYPE, or no series")
			case !metricName.MatchString(name) || !strings.HasSuffix(help, "."):
				return nil, fault("no name, or no sentence")
			}
			f = &family{name: name, help: help, series: map[string]float64{}}
			all[name] = f
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if f == nil || f.name != name || f.kind != "" || len(f.series) > 0 {
				return nil, fault("TYPE without its HELP")
			}
			if f.kind = kind; kind != "counter" && kind != "gauge" && kind != "histogram" {
				return nil, fault("no such type")
			}
			if strings.HasSuffix(name, "_total") != (kind == "counter") {
				return nil, fault("counters, and only they, end in _total")
			}
			if regexp.MustCompile(`_(ms|millis|milliseconds|minutes|kb|mb|percent)(_|$)`).MatchString(name) {
				return nil, fault("units are seconds, bytes and ratios")
			}
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || f == nil || f.kind == "" {
			return nil, fault("no sample, or of no family")
		}
		suffix, ok := strings.CutPrefix(m[1], f.name)
		if !ok || suffix != "" && f.kind != "histogram" || f.kind == "histogram" && suffix != "_bucket" && suffix != "_sum" && suffix != "_count" {
			return nil, fault("a sample of another family")
		}
		var names []string
		for rest := strings.TrimSuffix(strings.TrimPrefix(m[2], "{"), "}"); rest != ""; {
			pair := labelPair.FindStringSubmatch(rest)
			if pair == nil || slices.Contains(names, pair[1]) {
				return nil, fault("labels")
			}
			names = append(names, pair[1])
			rest = rest[len(pair[0]):]
		}
		names = slices.DeleteFunc(names, func(name string) bool { return name == "le" && suffix == "_bucket" })
		slices.Sort(names)
		if len(f.series) > 0 && !slices.Equal(names, f.labels) {
			return nil, fault("other labels than the series before")
		}
		f.labels = names
		value, err := strconv.ParseFloat(m[3], 64)
		if err != nil || math.IsNaN(value) || f.kind == "counter" && (value < 0 || math.IsInf(value, 0)) {
			return nil, fault("value")
		}
		if _, twice := f.series[suffix+m[2]]; twice {
			return nil, fault("a series twice")
		}
		f.series[suffix+m[2]] = value
	}
	if f == nil || len(f.series) == 0 {
		return nil, errors.New("the last family has no series")
	}
	for _, f := range all {
		if f.kind == "histogram" {
			if err := f.cumulates(); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// cumulates says what is wrong with a histogram that has no labels beside le.
func (f *family) cumulates() error {
	type bucket struct{ le, n float64 }
	var buckets []bucket
	for key, n := range f.series {
		if bound, ok := strings.CutPrefix(key, `_bucket{le="`); ok {
			le, err := strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64)
			if err != nil {
				return fmt.Errorf("%s%s", f.name, key)
			}
			buckets = append(buckets, bucket{le, n})
		}
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.le, b.le) })
	count, counted := f.series["_count"]
	_, summed := f.series["_sum"]
	if len(buckets) == 0 || !counted || !summed || !math.IsInf(buckets[len(buckets)-1].le, 1) || buckets[len(buckets)-1].n != count {
		return fmt.Errorf("%s: buckets %v, count %v", f.name, buckets, count)
	}
	if !slices.IsSortedFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.n, b.n) }) {
		return fmt.Errorf("%s: buckets %v do not add up", f.name, buckets)
	}
	return nil
}

// names are the metrics, sorted.
func names(all map[string]*family) []string { return slices.Sorted(maps.Keys(all)) }

const (
	headA      = "# HELP a_total A.\n# TYPE a_total counter\n"
	headB      = "# HELP b B.\n# TYPE b gauge\n"
	headH      = "# HELP h_seconds H.\n# TYPE h_seconds histogram\n"
	histogramH = `h_seconds_bucket{le="1"} 1` + "\n" + `h_seconds_bucket{le="+Inf"} 2` + "\nh_seconds_sum 3\nh_seconds_count 2\n"
)

func TestTheParserOfScrapesIsStrict(t *testing.T) {
	if all, err := scraped(headA + `a_total{x="\"\\\n}{,"} 1` + "\n" + `a_total{x=""} 2e3` + "\n" + headB + "b -1\n" + headH + histogramH); err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for name, text := range map[string]string{
		"nothing": "", "cut short": headA + "a_total 1", "no HELP": "# TYPE a_total counter\na_total 1\n", "no TYPE": "# HELP a_total A.\na_total 1\n",
		"no series": headA + headB + "b 1\n", "no series at the end": headA, "two pieces": headA + "a_total 1\n" + headB + "b 1\n" + headA + "a_total{x=\"1\"} 1\n",
		"a stray sample": headA + "a_total 1\nb 1\n", "a series twice": headB + "b{x=\"1\"} 1\nb{x=\"1\"} 2\n", "not escaped": headB + `b{x="a"b"} 1` + "\n",
		"an escape there is not": headB + `b{x="\t"} 1` + "\n", "a label twice": headB + `b{x="1",x="2"} 1` + "\n", "labels that differ": headB + "b 1\nb{x=\"2\"} 1\n",
		"no number": headB + "b one\n", "NaN": headB + "b NaN\n", "a counter below nothing": headA + "a_total -1\n",
		"a gauge named like a counter": "# HELP b_total B.\n# TYPE b_total gauge\nb_total 1\n", "a counter without its name": "# HELP a A.\n# TYPE a counter\na 1\n",
		"milliseconds": "# HELP b_ms B.\n# TYPE b_ms gauge\nb_ms 1\n", "no sentence": "# HELP b B\n# TYPE b gauge\nb 1\n", "no UTF-8": headB + "b{x=\"\xff\"} 1\n",
		"buckets that fall": headH + strings.Replace(histogramH, "} 1", "} 5", 1), "no last bucket": headH + "h_seconds_bucket{le=\"1\"} 1\nh_seconds_sum 3\nh_seconds_count 2\n",
		"a count of its own": headH + strings.Replace(histogramH, "count 2", "count 3", 1), "no sum": headH + strings.Replace(histogramH, "h_seconds_sum 3\n", "", 1),
	} {
		if all, err := scraped(text); err == nil {
			t.Errorf("%s: taken: %v", name, all)
		}
	}
}
