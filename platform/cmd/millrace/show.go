package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"unicode/utf8"
)

// show prints the value as JSON, or the text.
func (c *command) show(value any, format string, args ...any) error {
	if c.format == "json" {
		return c.json(value)
	}
	_, err := fmt.Fprintf(c.out, format, args...)
	return err
}

// json prints one value on one line, so that many make a stream.
func (c *command) json(value any) error {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return err
	}
	_, err := c.out.Write(line.Bytes())
	return err
}

// table prints rows in columns.
func (c *command) table(header string, rows []string) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, header); err != nil {
		return err
	}
	for _, row := range rows {
		if _, err := fmt.Fprintln(w, row); err != nil {
			return err
		}
	}
	return w.Flush()
}

// note says something about the work, beside its result.
func (c *command) note(format string, args ...any) {
	fmt.Fprintf(c.errs, format+"\n", args...)
}

// textOrBytes is a JSON value for bytes that are mostly text: a string, or {"base64": …} when they are no UTF-8.
func textOrBytes(p []byte) any {
	switch {
	case p == nil:
		return nil
	case utf8.Valid(p):
		return string(p)
	}
	return map[string][]byte{"base64": p}
}
