package route

import (
	"strings"

	"millrace/bridge/payload"
)

// filter is a compiled topic filter whose one-level wildcards may have names: a/{site}/+/# and the like.
type filter struct {
	text string
	// levels are those before the #. Invariant: there is at least one; # alone is +/#, for every topic has a first level
	// and # stands for its parent level too.
	levels []level
	multi  bool // ends in #
}

type level struct {
	kind levelKind
	text string // the literal, or the capture's name ("" for +)
}

type levelKind byte

const (
	literal levelKind = iota
	single
)

// wild reports whether the first level is a wildcard: then it does not match topics that start with $ [MQTT-4.7.2-1].
func (f *filter) wild() bool { return f.levels[0].kind == single }

// parseFilter reads an MQTT topic filter with captures. A plain filter is one without captures.
func parseFilter(s string) (*filter, string) {
	f := &filter{text: s}
	switch {
	case s == "":
		return nil, "is empty"
	case !payload.Text(s):
		return nil, "is longer than 65535 bytes or not UTF-8 without U+0000" // [MQTT-4.7.3-2] [MQTT-4.7.3-3]
	}
	parts := strings.Split(s, "/")
	for i, p := range parts {
		switch {
		case p == "#":
			if i != len(parts)-1 {
				return nil, "has # before its last level"
			}
			f.multi = true
		case p == "+":
			f.levels = append(f.levels, level{kind: single})
		case strings.HasPrefix(p, "{") && strings.HasSuffix(p, "}"):
			name := p[1 : len(p)-1]
			if !validName(name) {
				return nil, "has a capture without a plain name: " + p
			}
			for _, l := range f.levels {
				if l.kind == single && l.text == name {
					return nil, "captures " + p + " twice"
				}
			}
			f.levels = append(f.levels, level{single, name})
		case strings.ContainsAny(p, "+#{}"):
			return nil, "has a wildcard or capture that is not alone in its level: " + p
		default:
			f.levels = append(f.levels, level{literal, p})
		}
	}
	if len(f.levels) == 0 {
		f.levels = []level{{kind: single}}
	}
	return f, ""
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}

// match reports whether the filter matches a topic name, and calls nothing and allocates nothing.
func (f *filter) match(topic string) bool {
	if f.wild() && strings.HasPrefix(topic, "$") {
		return false
	}
	rest, more := topic, true
	for _, l := range f.levels {
		if !more {
			return false
		}
		var t string
		t, rest, more = strings.Cut(rest, "/")
		if l.kind == literal && l.text != t {
			return false
		}
	}
	// # stands for its parent level too, and for any number of levels below it (4.7.1.2).
	return f.multi || !more
}

// capture returns the topic's level that the named wildcard took. The topic matches f and f has the name.
func (f *filter) capture(topic, name string) string {
	for _, l := range f.levels {
		t, rest, _ := strings.Cut(topic, "/")
		if l.kind == single && l.text == name {
			return t
		}
		topic = rest
	}
	return ""
}

func (f *filter) has(name string) bool {
	for _, l := range f.levels {
		if l.kind == single && l.text == name {
			return true
		}
	}
	return false
}

// names lists the captures in the order of the filter.
func (f *filter) names() (names []string) {
	for _, l := range f.levels {
		if l.kind == single && l.text != "" {
			names = append(names, l.text)
		}
	}
	return names
}

// covers reports whether every topic that matches g also matches f.
func (f *filter) covers(g *filter) bool {
	if f.wild() && !g.wild() && strings.HasPrefix(g.levels[0].text, "$") {
		return false
	}
	if len(g.levels) < len(f.levels) || (!f.multi && (g.multi || len(g.levels) != len(f.levels))) {
		return false
	}
	for i, l := range f.levels {
		if l.kind == literal && (g.levels[i].kind != literal || g.levels[i].text != l.text) {
			return false
		}
	}
	return true
}

// overlaps reports whether some topic matches both.
func (f *filter) overlaps(g *filter) bool {
	if (f.wild() && !g.wild() && strings.HasPrefix(g.levels[0].text, "$")) ||
		(g.wild() && !f.wild() && strings.HasPrefix(f.levels[0].text, "$")) {
		return false
	}
	if (len(f.levels) > len(g.levels) && !g.multi) || (len(g.levels) > len(f.levels) && !f.multi) {
		return false
	}
	for i := range min(len(f.levels), len(g.levels)) {
		a, b := f.levels[i], g.levels[i]
		if a.kind == literal && b.kind == literal && a.text != b.text {
			return false
		}
	}
	return true
}
