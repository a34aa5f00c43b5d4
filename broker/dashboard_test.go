package broker

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of figures in platform/metrics/README.md anew")

const (
	metricsDir            = "../platform/metrics/"
	tableBegin, tableEnd  = "<!-- the table below is written by broker/dashboard_test.go -->\n", "<!-- end of the table -->\n"
	keptOutOfEveryMachine = "millrace_process_written_bytes_total" // a kernel may be built without
)

// TestEveryFigureIsDocumented: the table of README.md has every metric a busy board tells, and no other.
func TestEveryFigureIsDocumented(t *testing.T) {
	all, _ := scrape(t, busy(t))
	readme, err := os.ReadFile(metricsDir + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), tableBegin)
	is, after, ended := strings.Cut(rest, tableEnd)
	if !ok || !ended {
		t.Fatal("README.md has no place for the table")
	}
	var table strings.Builder
	table.WriteString("| metric | type | labels | what it is |\n|---|---|---|---|\n")
	for _, name := range names(all) {
		f := all[name]
		labels := ""
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "` `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, f.kind, labels, strings.ReplaceAll(f.help, "|", `\|`))
	}
	without := func(table string) string {
		if all[keptOutOfEveryMachine] != nil {
			return table
		}
		return regexp.MustCompile("(?m)^.*"+keptOutOfEveryMachine+".*\n").ReplaceAllString(table, "")
	}
	switch {
	case without(is) == table.String():
	case *update:
		if err := os.WriteFile(metricsDir+"README.md", []byte(before+tableBegin+table.String()+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table in platform/metrics/README.md is not what a board tells: go test ./broker -run EveryFigure -update\nhave\n%s\nwant\n%s", is, &table)
	}
}

// panel is what is read of a dashboard's.
type panel struct {
	ID      int
	Type    string
	Title   string
	Targets []struct{ Expr, LegendFormat string }
	GridPos struct{ H, W, X, Y int }
}

var (
	promMetric = regexp.MustCompile(`\b((?:millrace|kafka|process|go)_[a-z0-9_]+)(\{[^}]*\})?`)
	promMatch  = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	promBy     = regexp.MustCompile(`\b(?:by|on|group_left|without) \(([a-z_, ]*)\)`)
	legend     = regexp.MustCompile(`\{\{([a-z_]+)\}\}`)
)

// exprFaults says what an expression and its legend name that a scrape does not have. Prometheus adds instance and job.
func exprFaults(all map[string]*family, expr, legendFormat string) (faults []string) {
	added := []string{"instance", "job"}
	found := promMetric.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		faults = append(faults, "it names no metric")
	}
	known := slices.Clone(added)
	for _, m := range found {
		name := m[1]
		f := all[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && f == nil && all[base] != nil && all[base].kind == "histogram" {
				f = all[base]
				if suffix == "_bucket" {
					known = append(known, "le")
				}
			}
		}
		if f == nil {
			faults = append(faults, "there is no "+name)
			continue
		}
		known = append(known, f.labels...)
		for _, match := range promMatch.FindAllStringSubmatch(m[2], -1) {
			label, value := match[1], match[3]
			switch {
			case slices.Contains(added, label):
			case !slices.Contains(f.labels, label):
				faults = append(faults, name+" has no label "+label)
			case match[2] == "=" && !slices.ContainsFunc(seriesOf(f), func(s string) bool { return strings.Contains(s, label+`="`+value+`"`) }):
				faults = append(faults, fmt.Sprintf("%s has no %s %q", name, label, value))
			}
		}
		// A counter is shown by its rate, but for one that is a figure in itself; a histogram is never shown as it is.
		if !strings.Contains(expr, "rate("+m[0]+"[") && f.kind != "gauge" && name != "millrace_flash_device_written_bytes_total" || f.kind == "histogram" && name == f.name {
			faults = append(faults, fmt.Sprintf("%s is a %s", name, f.kind))
		}
	}
	for _, by := range promBy.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(by[1], ",") {
			if label = strings.TrimSpace(label); label != "" && !slices.Contains(known, label) {
				faults = append(faults, "nothing has a label "+label)
			}
		}
	}
	for _, l := range legend.FindAllStringSubmatch(legendFormat, -1) {
		if !slices.Contains(known, l[1]) {
			faults = append(faults, "the legend's "+l[1]+" is no label")
		}
	}
	return faults
}

func seriesOf(f *family) (keys []string) {
	for key := range f.series {
		keys = append(keys, key)
	}
	return keys
}

// TestTheDashboardFitsABoard: every expression of the dashboard names metrics and labels that a live board tells.
func TestTheDashboardFitsABoard(t *testing.T) {
	all, _ := scrape(t, busy(t))
	raw, err := os.ReadFile(metricsDir + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID, Title string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	if all[keptOutOfEveryMachine] == nil {
		all[keptOutOfEveryMachine] = &family{kind: "counter"}
	}
	shown := map[string]bool{}
	ids := map[int]bool{}
	var rows []string
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 {
			t.Errorf("panel %d %q has no place, or another's number", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, fault := range exprFaults(all, target.Expr, target.LegendFormat) {
				t.Errorf("panel %q: %s: %s", p.Title, target.Expr, fault)
			}
			for _, m := range promMetric.FindAllStringSubmatch(target.Expr, -1) {
				shown[m[1]] = true
				if !strings.Contains(m[2], `instance=~"$instance"`) {
					t.Errorf("panel %q shows %s of every board", p.Title, m[1])
				}
			}
		}
	}
	if want := []string{"At a glance", "Data path", "Flash", "Memory", "MQTT", "Kafka and consumer groups", "Upstream", "Health"}; !slices.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
	for _, v := range dashboard.Templating.List {
		for _, m := range promMetric.FindAllString(v.Definition, -1) {
			if all[m] == nil {
				t.Errorf("variable %s: there is no %s", v.Name, m)
			}
		}
	}
	t.Logf("%d metrics of %d are on the dashboard", len(shown), len(all))
}

func TestADashboardThatDoesNotFitIsFound(t *testing.T) {
	all, err := scraped(headA + "a_total{x=\"1\"} 1\n" + strings.ReplaceAll(headA, "a_total", "millrace_a_total") + "millrace_a_total{x=\"1\"} 1\n" +
		strings.ReplaceAll(headH+histogramH, "h_seconds", "millrace_h_seconds"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		expr, legend string
		faults       int
	}{
		{`rate(millrace_a_total{instance=~"$instance",x="1"}[1m])`, "{{x}}", 0},
		{`histogram_quantile(0.5, sum by (instance, le) (rate(millrace_h_seconds_bucket{instance=~"$instance"}[1m])))`, "{{instance}}", 0},
		{`rate(millrace_h_seconds_sum[1m]) / rate(millrace_h_seconds_count[1m])`, "", 0},
		{`rate(millrace_b_total[1m])`, "", 1},
		{`rate(millrace_a_total_sum[1m])`, "", 1},
		{`rate(millrace_a_total{y="1"}[1m])`, "", 1},
		{`rate(millrace_a_total{x="2"}[1m])`, "", 1},
		{`sum by (z) (rate(millrace_a_total[1m]))`, "", 1},
		{`rate(millrace_a_total[1m])`, "{{y}}", 1},
		{`millrace_a_total`, "", 1},
		{`rate(millrace_h_seconds[1m])`, "", 1},
		{`1`, "", 1},
	} {
		if faults := exprFaults(all, tt.expr, tt.legend); len(faults) != tt.faults {
			t.Errorf("%s %s: %v, want %d", tt.expr, tt.legend, faults, tt.faults)
		}
	}
}
