package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// FileMax bounds a configuration file, in bytes.
const FileMax = 1 << 20

// problemsMax bounds how many mistakes one run reports.
const problemsMax = 20

// Checks are what the packages that use a value know about it and this package cannot, for it imports nothing.
// A nil check passes everything.
type Checks struct {
	// Topic tells what is wrong with one topic setting; value is in the unit of the key.
	Topic func(key, value string) error
	// TopicKeys are the settings there are, for the nearest-name message.
	TopicKeys []string
	// Routes tells what is wrong with the routing rules, all of them together: it calls wrong for each one that is, with
	// its place in Routes or Reverses.
	Routes func(m *MQTT, wrong func(reverse bool, index int, err error))
	// Mapping tells what is wrong with one of ssl.principal.mapping.rules.
	Mapping func(rule string) error
	// Component tells what is wrong with the name of a part of the program.
	Component func(name string) error
	// Zone tells what is wrong with the name of a time zone, Window with a time of the day in which a link may send.
	Zone, Window func(text string) error
	// Link tells what else is wrong with a link, as far as its settings are good each for itself.
	Link func(u *Upstream) error
	// Driver tells what is wrong with a sensor's driver.
	Driver func(name string) error
	// FRAM tells what is wrong with an FRAM's driver.
	FRAM func(name string) error
}

// Load reads and checks a file. Every problem found is in the error, each a *Problem with file and line.
func Load(file string, names Names, checks Checks) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, FileMax+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return Parse(file, data, names, checks)
}

// Parse checks the bytes of a file over the defaults; file is its name for messages. No bytes at all are the defaults.
func Parse(file string, data []byte, names Names, checks Checks) (*Config, error) {
	if len(data) > FileMax {
		return nil, &Problem{File: file, Line: 1, Text: fmt.Sprintf("longer than %s", formatSize(FileMax))}
	}
	entries, err := document(file, data)
	if err != nil {
		return nil, err
	}
	p := parse{Config: Default(), file: file, names: names, checks: checks, lines: map[string]int{}, element: map[string]int{}}
	p.Flash.ReserveBytes = 0 // follows journal.bytes.max unless the file says it
	for _, e := range entries {
		p.entry(e)
	}
	p.finish()
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return p.Config, nil
}

type parse struct {
	*Config
	file     string
	names    Names
	checks   Checks
	lines    map[string]int // where each "section.key" was set, and what elementKey makes of it
	element  map[string]int // where the last element of each list began
	problems []error
}

func (p *parse) problem(line int, key, format string, args ...any) {
	if len(p.problems) < problemsMax {
		p.problems = append(p.problems, &Problem{File: p.file, Line: line, Key: key, Text: fmt.Sprintf(format, args...)})
	}
}

func (p *parse) entry(e entry) {
	name := strings.Join(e.path, ".")
	captures := e.section == "mqtt.route" || e.section == "mqtt.reverse" || e.section == "upstream" && e.key == "naming"
	val, err := p.names.expand(e.val, captures)
	if err != nil {
		p.problem(e.line, name, "%v", err)
		return
	}
	switch {
	case e.key == "[[]]":
		p.problem(e.line, name, "is a single table or none: nearest list is [[%s]]", nearest(e.section, sectionsOf(true)))
	case e.section == "topic":
		p.topic(e, name, val)
	case settingsOf(&Config{}, e.section, 0, 0) == nil:
		p.unknown(e, name)
	default:
		p.set(e, name, val)
	}
}

func (p *parse) set(e entry, name string, val any) {
	settings := settingsOf(p.Config, e.section, e.index, e.line)
	if e.header && e.key == "" {
		p.element[e.section] = e.line
	}
	if e.header && (e.key == "" || slices.ContainsFunc(settings, func(s setting) bool {
		return strings.HasPrefix(s.key, e.key+".") || s.bind.put != nil && s.key == e.key
	})) {
		return
	}
	at := slices.IndexFunc(settings, func(s setting) bool {
		return s.key == e.key || s.bind.put != nil && strings.HasPrefix(e.key, s.key+".")
	})
	if at < 0 {
		p.unknown(e, name)
		return
	}
	set := settings[at].bind.set
	if entry, ok := strings.CutPrefix(e.key, settings[at].key+"."); ok {
		set = func(v any) error { return settings[at].bind.put(entry, v) }
	}
	if err := set(val); err != nil {
		p.problem(e.line, name, "%v", err)
	}
	p.lines[e.section+"."+e.key] = e.line
	p.lines[elementKey(e.section, p.element[e.section], e.key)] = e.line
}

// unknown names the nearest key: in the same table, or the same key in the table it belongs to.
func (p *parse) unknown(e entry, name string) {
	keys := keysOf(e.section)
	if keys == nil {
		if e.key == "" || e.section == e.path[0] {
			for _, s := range sections() {
				if slices.Contains(keysOf(s), strings.Join(e.path, ".")) {
					p.problem(e.line, name, "unknown key; it belongs in [%s]", s)
					return
				}
			}
			p.problem(e.line, name, "unknown table; nearest is [%s]", nearest(e.section, sections()))
		}
		return
	}
	if here, ok := kafkaNames[e.key]; ok && e.section == "upstream" {
		p.problem(e.line, name, "unknown key; here it is %s", here)
		return
	}
	for _, s := range sections() {
		if slices.Contains(keysOf(s), e.key) {
			p.problem(e.line, name, "unknown key; it belongs in [%s]", s)
			return
		}
	}
	p.problem(e.line, name, "unknown key; nearest is %s", nearest(e.key, keys))
}

// topicPattern is Kafka's characters of a topic name, and *.
var topicPattern = regexp.MustCompile(`^[A-Za-z0-9._*-]+$`)

// topic files one setting of a topic table. The order of the tables is kept: the first match wins.
func (p *parse) topic(e entry, name string, val any) {
	if e.pattern == "" {
		return // [topic] alone says nothing
	}
	if !topicPattern.MatchString(e.pattern) {
		p.problem(e.line, name, "%q matches no topic: names have letters, digits, dots, dashes and underscores; * stands for any of them", e.pattern)
		return
	}
	at := slices.IndexFunc(p.Topics, func(t Topic) bool { return t.Pattern == e.pattern })
	if at < 0 {
		at = len(p.Topics)
		p.Topics = append(p.Topics, Topic{Pattern: e.pattern, Config: map[string]string{}})
	}
	if e.key == "" {
		if !e.header {
			p.problem(e.line, name, `a topic table names its topics: [topic."*"]`)
		}
		return
	}
	if e.header {
		return // [topic."*".retention], with ms = 1 below it
	}
	if len(p.checks.TopicKeys) > 0 && !slices.Contains(p.checks.TopicKeys, e.key) {
		p.problem(e.line, name, "unknown topic setting; nearest is %s", nearest(e.key, p.checks.TopicKeys))
		return
	}
	value, err := topicValue(e.key, val)
	if err == nil && p.checks.Topic != nil {
		err = p.checks.Topic(e.key, value)
	}
	if err != nil {
		p.problem(e.line, name, "%v", err)
		return
	}
	p.Topics[at].Config[e.key] = value
}

// topicValue writes a value as Kafka does: in the unit of the key, lists with commas.
func topicValue(key string, val any) (string, error) {
	switch v := val.(type) {
	case string:
		if _, err := strconv.ParseFloat(v, 64); err == nil {
			return v, nil
		}
		if strings.HasSuffix(key, ".ms") {
			d, err := parseTime(v)
			return strconv.FormatInt(d.Milliseconds(), 10), err
		}
		if strings.HasSuffix(key, ".bytes") {
			n, err := parseSize(v)
			return strconv.FormatInt(n, 10), err
		}
		return v, nil
	case int64, bool:
		return fmt.Sprint(v), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case []any:
		words := make([]string, len(v))
		for i, w := range v {
			word, err := topicValue(key, w)
			if err != nil {
				return "", err
			}
			words[i] = word
		}
		return strings.Join(words, ","), nil
	}
	return "", errors.New("a date is no topic setting")
}

// finish fills what follows from other keys and checks what no key alone can know.
func (p *parse) finish() {
	if alias, err := p.names.expand(p.Broker.ClusterAlias, false); err != nil {
		p.Broker.ClusterAlias = "millrace" // a board without a name, whose file does not ask for one
	} else {
		p.Broker.ClusterAlias = alias.(string)
	}
	line, said := p.lines["flash.reserve.bytes"]
	switch floor := p.reserveFloor(); {
	case !said:
		p.Flash.ReserveBytes = floor
	case p.Flash.ReserveBytes < floor:
		p.problem(line, "flash.reserve.bytes", "%s is too small: 2 x journal.bytes.max + 16MiB is %s",
			formatSize(p.Flash.ReserveBytes), formatSize(floor))
	}
	p.routes()
	for _, name := range slices.Sorted(maps.Keys(p.Log.Components)) {
		if p.checks.Component != nil {
			if err := p.checks.Component(name); err != nil {
				p.problem(cmp.Or(p.lines["log.components."+name], p.lines["log.components"], 1), "log.components."+name, "%v", err)
			}
		}
	}
	for _, rule := range p.Broker.MappingRules {
		if p.checks.Mapping != nil {
			if err := p.checks.Mapping(rule); err != nil {
				p.problem(p.lines["broker.ssl.principal.mapping.rules"], "broker.ssl.principal.mapping.rules", "%v", err)
			}
		}
	}
	p.complete()
	for _, t := range p.security() {
		p.problem(max(t.line, p.lines[t.key], 1), t.key, "%s", t.text)
	}
	if line := max(p.lines["flash.write.budget"], p.lines["flash.commit.interval.max.ms"], p.lines["journal.commit.interval.ms"]); p.Flash.WriteBudget > 0 &&
		p.Flash.CommitIntervalMax < p.Journal.CommitInterval {
		p.problem(line, "flash.commit.interval.max.ms", "%s is below journal.commit.interval.ms, which is %s",
			formatTime(p.Flash.CommitIntervalMax), formatTime(p.Journal.CommitInterval))
	}
	p.devices()
	p.memories()
	p.upstreams()
}

// routes checks the routing rules: each for what it lacks, then all together.
func (p *parse) routes() {
	whole := true
	for _, r := range p.MQTT.Routes {
		if r.Filter == "" || r.Topic == "" {
			p.problem(r.Line, "mqtt.route", "needs a filter and a topic")
			whole = false
		}
	}
	for _, r := range p.MQTT.Reverses {
		if r.Topic == "" || r.MQTTTopic == "" {
			p.problem(r.Line, "mqtt.reverse", "needs a topic and an mqtt_topic")
			whole = false
		}
	}
	if !whole || p.checks.Routes == nil {
		return
	}
	p.checks.Routes(&p.MQTT, func(reverse bool, index int, err error) {
		if reverse {
			p.problem(p.MQTT.Reverses[index].Line, "mqtt.reverse", "%v", err)
		} else {
			p.problem(p.MQTT.Routes[index].Line, "mqtt.route", "%v", err)
		}
	})
}

// memories checks the FRAMs and who names them.
func (p *parse) memories() {
	names, buses := map[string]bool{}, map[string]bool{}
	for _, f := range p.FRAMs {
		key := "fram." + f.Name
		switch {
		case f.Name == "" || f.Bus == "" || f.Driver == "":
			p.problem(f.Line, "fram", "needs name, bus and driver")
		case names[f.Name]:
			p.problem(f.Line, key, "there are two FRAMs of this name")
		case buses[f.Bus]:
			p.problem(f.Line, key, "another FRAM is on %s: a port is one chip", f.Bus)
		case p.checks.FRAM != nil:
			if err := p.checks.FRAM(f.Driver); err != nil {
				p.problem(f.Line, key, "%v", err)
			}
		}
		names[f.Name], buses[f.Bus] = true, true
	}
	if front := p.Journal.Front; front != "" && !names[front] {
		p.problem(p.lines["journal.front"], "journal.front", "there is no [[fram]] named %q", front)
	}
}

func (p *parse) devices() {
	names := map[string]bool{}
	for _, b := range p.Buses {
		if b.Name == "" || names[b.Name] {
			p.problem(b.Line, "bus", "needs a name of its own")
		}
		names[b.Name] = true
	}
	clear(names)
	for _, s := range p.Sensors {
		key := "sensor." + s.Name
		switch {
		case s.Name == "" || s.Driver == "" || s.Bus == "" || s.Topic == "" || s.Address == 0:
			p.problem(s.Line, "sensor", "needs name, driver, bus, address and topic")
		case names[s.Name]:
			p.problem(s.Line, key, "there are two sensors of this name")
		case !slices.ContainsFunc(p.Buses, func(b Bus) bool { return b.Name == s.Bus }):
			p.problem(s.Line, key, "there is no [[bus]] named %q", s.Bus)
		case p.checks.Driver != nil:
			if err := p.checks.Driver(s.Driver); err != nil {
				p.problem(s.Line, key, "%v", err)
			}
		}
		names[s.Name] = true
	}
}

func sectionsOf(list bool) []string {
	return slices.DeleteFunc(sections(), func(s string) bool { _, is := lists[s]; return is != list })
}

// nearest is the name with the fewest letters to change.
func nearest(word string, names []string) string {
	return slices.MinFunc(names, func(a, b string) int { return distance(word, a) - distance(word, b) })
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
