package rest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// walk steps through JSON that was found valid, and copies nothing: what it gives out are parts of the text.
type walk struct {
	text []byte
	at   int
}

// next is the byte that begins what comes next.
func (w *walk) next() byte {
	for strings.IndexByte(" \t\r\n", w.text[w.at]) >= 0 {
		w.at++
	}
	return w.text[w.at]
}

// value is the next value, whatever it is.
func (w *walk) value() []byte {
	w.next()
	from, depth := w.at, 0
	for {
		switch w.text[w.at] {
		case '"':
			w.quoted()
		case '{', '[':
			depth++
			w.at++
		case '}', ']':
			depth--
			w.at++
		case ',', ':', ' ', '\t', '\r', '\n':
			w.at++
		default: // a number or a word
			for w.at < len(w.text) && strings.IndexByte(",:]} \t\r\n", w.text[w.at]) < 0 {
				w.at++
			}
		}
		if depth == 0 {
			return w.text[from:w.at:w.at]
		}
	}
}

// quoted steps behind a string.
func (w *walk) quoted() {
	for w.at++; w.text[w.at] != '"'; w.at++ {
		if w.text[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
}

// object reads an object. each reads the value of one of names, which are there once at most.
func (w *walk) object(names []string, each func(name string) error) error {
	if w.next() != '{' {
		return fmt.Errorf("want an object with %s", strings.Join(names, ", "))
	}
	w.at++
	var seen uint
	for w.next() != '}' {
		name, err := text(w.value())
		if err != nil {
			return err
		}
		at := slices.Index(names, string(name))
		switch {
		case at < 0:
			return fmt.Errorf("there is no %.50q, but %s", name, strings.Join(names, ", "))
		case seen&(1<<at) != 0:
			return fmt.Errorf("%s is there twice", name)
		}
		seen |= 1 << at
		w.next()
		w.at++ // the colon
		if err := each(names[at]); err != nil {
			return err
		}
		w.comma()
	}
	w.at++
	return nil
}

// array reads an array. each reads one element.
func (w *walk) array(each func() error) error {
	if w.next() != '[' {
		return errors.New("want an array")
	}
	w.at++
	for w.next() != ']' {
		if err := each(); err != nil {
			return err
		}
		w.comma()
	}
	w.at++
	return nil
}

func (w *walk) comma() {
	if w.next() == ',' {
		w.at++
	}
}
