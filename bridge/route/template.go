package route

import (
	"fmt"
	"strings"
)

// template is text with {variables}.
type template []part

type part struct {
	text     string // the literal, or the variable's name
	variable bool
}

// parseTemplate reads s; known says which variables exist, there says it for who used another.
func parseTemplate(s string, known func(name string) bool, there string) (template, error) {
	var t template
	for s != "" {
		open := strings.IndexAny(s, "{}")
		if open < 0 {
			return append(t, part{text: s}), nil
		}
		if s[open] == '}' {
			return nil, fmt.Errorf("has } without {")
		}
		if open > 0 {
			t = append(t, part{text: s[:open]})
		}
		end := strings.IndexAny(s[open+1:], "{}")
		if end < 0 || s[open+1+end] == '{' {
			return nil, fmt.Errorf("has { without }")
		}
		name := s[open+1 : open+1+end]
		if !known(name) {
			return nil, fmt.Errorf("uses {%s}, which nothing defines; %s", name, there)
		}
		t = append(t, part{name, true})
		s = s[open+end+2:]
	}
	return t, nil
}

// constant returns the template's text when it has no variables.
func (t template) constant() (string, bool) {
	switch {
	case len(t) == 0:
		return "", true
	case len(t) == 1 && !t[0].variable:
		return t[0].text, true
	}
	return "", false
}

// append expands the template onto dst.
func (t template) append(dst []byte, value func(name string) string) []byte {
	for _, p := range t {
		if p.variable {
			dst = append(dst, value(p.text)...)
		} else {
			dst = append(dst, p.text...)
		}
	}
	return dst
}

// matches reports whether some values of the variables make the template expand to s. known fixes a variable's value.
// The comparison is a glob's: literals in order, unknown variables take anything, also nothing.
func (t template) matches(s string, known func(name string) (string, bool)) bool {
	if len(t) == 0 {
		return s == ""
	}
	p := t[0]
	if p.variable {
		v, ok := known(p.text)
		if !ok {
			for i := range len(s) + 1 {
				if t[1:].matches(s[i:], known) {
					return true
				}
			}
			return false
		}
		p.text = v
	}
	return strings.HasPrefix(s, p.text) && t[1:].matches(s[len(p.text):], known)
}

// bind finds values for the template's variables so that it expands to s, each at least one byte and as short as the
// literal after it allows, the last one taking the rest. It writes them to values, in the template's order.
func (t template) bind(s string, values []string) bool {
	n := 0
	for i, p := range t {
		if !p.variable {
			if !strings.HasPrefix(s, p.text) {
				return false
			}
			s = s[len(p.text):]
			continue
		}
		end := len(s)
		if i+1 < len(t) {
			if len(s) == 0 {
				return false
			}
			at := strings.Index(s[1:], t[i+1].text)
			if at < 0 {
				return false
			}
			end = at + 1
			if i+2 == len(t) { // the literal ends the template: the variable takes all before the last one
				if !strings.HasSuffix(s, t[i+1].text) {
					return false
				}
				end = len(s) - len(t[i+1].text)
			}
		}
		if end == 0 {
			return false
		}
		values[n], s = s[:end], s[end:]
		n++
	}
	return s == ""
}
