package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is one key of the file with its value and where it stands. Inline tables are flattened, so
// `deadband = { temperature = 0.1 }` and `deadband.temperature = 0.1` are the same.
type entry struct {
	section string   // "broker", "mqtt.route", or what the file says instead
	pattern string   // of a topic table
	index   int      // in a list
	key     string   // dotted, below the section
	val     any      // string, int64, float64, bool, []any; nil for a date
	header  bool     // a [table] line, not a key
	line    int      // from 1
	path    []string // as it stands
}

// document reads the file into entries. The library's own decoder has the first word, so what gets here is valid TOML
// without duplicates; the walk after it adds the lines.
func document(file string, data []byte) ([]entry, error) {
	var whole map[string]any
	if err := toml.Unmarshal(data, &whole); err != nil {
		var bad *toml.DecodeError
		if !errors.As(err, &bad) {
			return nil, &Problem{File: file, Line: 1, Text: err.Error()}
		}
		line, _ := bad.Position()
		return nil, &Problem{File: file, Line: line, Text: strings.TrimPrefix(bad.Error(), "toml: ")}
	}
	w := walker{counts: map[string]int{}}
	w.parser.Reset(data)
	for w.parser.NextExpression() {
		w.expression(w.parser.Expression())
	}
	if err := w.parser.Error(); err != nil {
		return nil, &Problem{File: file, Line: 1, Text: err.Error()}
	}
	return w.entries, nil
}

type walker struct {
	parser  unstable.Parser
	prefix  []string
	counts  map[string]int // elements of each list so far
	entries []entry
}

func (w *walker) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.KeyValue:
		w.keyValue(w.prefix, n)
	case unstable.Table, unstable.ArrayTable:
		path, line := w.key(nil, n)
		w.prefix = path
		if name := strings.Join(path, "."); n.Kind == unstable.ArrayTable {
			w.count(name)
			_, list := lists[name]
			if !list {
				w.entries = append(w.entries, entry{section: name, key: "[[]]", line: line, path: path})
				return
			}
		}
		w.header(path, line)
	}
}

func (w *walker) keyValue(prefix []string, n *unstable.Node) {
	path, line := w.key(prefix, n)
	w.value(path, n.Value(), line)
}

func (w *walker) value(path []string, n *unstable.Node, line int) {
	name := strings.Join(path, ".")
	_, list := lists[name]
	switch {
	case n.Kind == unstable.InlineTable:
		for it := n.Children(); it.Next(); {
			w.keyValue(path, it.Node())
		}
	case n.Kind == unstable.Array && list: // route = [{...}, {...}]
		for it := n.Children(); it.Next(); {
			w.count(name)
			w.element(path, it.Node(), line)
		}
	default:
		w.add(path, scalar(n), line)
	}
}

// count begins another element of a list; the lists below it begin anew.
func (w *walker) count(name string) {
	w.counts[name]++
	for below := range w.counts {
		if strings.HasPrefix(below, name+".") {
			delete(w.counts, below)
		}
	}
}

// element is one of an inline list; its line is that of its first key, for arrays run over many lines.
func (w *walker) element(path []string, n *unstable.Node, line int) {
	if keys := n.Children(); n.Kind == unstable.InlineTable && keys.Next() {
		_, line = w.key(path, keys.Node())
	}
	w.header(path, line)
	w.value(path, n, line)
}

// key is the dotted key of n below the prefix, and its line.
func (w *walker) key(prefix []string, n *unstable.Node) (path []string, line int) {
	path = append(path, prefix...)
	for it := n.Key(); it.Next(); {
		if line == 0 {
			line = w.parser.Shape(it.Node().Raw).Start.Line
		}
		path = append(path, string(it.Node().Data))
	}
	return path, line
}

func (w *walker) header(path []string, line int) {
	w.add(path, nil, line)
	w.entries[len(w.entries)-1].header = true
}

// add files a value under its section: the longest one that begins the path.
func (w *walker) add(path []string, val any, line int) {
	e := entry{section: path[0], val: val, line: line, path: path}
	rest := path[1:]
	if len(path) > 1 {
		if name := path[0] + "." + path[1]; lists[name] != nil {
			e.section, rest = name, path[2:]
		}
	}
	if e.section == "topic" && len(rest) > 0 {
		e.pattern, rest = rest[0], rest[1:]
	}
	e.index = max(w.counts[e.section]-1, 0)
	e.key = strings.Join(rest, ".")
	w.entries = append(w.entries, e)
}

func scalar(n *unstable.Node) any {
	switch n.Kind {
	case unstable.String:
		return string(n.Data)
	case unstable.Bool:
		return string(n.Data) == "true"
	case unstable.Integer:
		i, err := strconv.ParseInt(string(n.Data), 0, 64) // TOML's 0x, 0o, 0b and _ are Go's
		if err != nil {
			return nil // the decoder refused it before
		}
		return i
	case unstable.Float:
		f, err := strconv.ParseFloat(strings.ReplaceAll(string(n.Data), "_", ""), 64)
		if err != nil {
			return nil
		}
		return f
	case unstable.Array:
		list := []any{}
		for it := n.Children(); it.Next(); {
			list = append(list, scalar(it.Node()))
		}
		return list
	}
	return nil
}

// Problem is one thing wrong with a file.
type Problem struct {
	File string
	Line int    // from 1
	Key  string // as it stands in the file; empty when the line itself is no TOML
	Text string
}

func (p *Problem) Error() string {
	if p.Key == "" {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", p.File, p.Line, p.Key, p.Text)
}
