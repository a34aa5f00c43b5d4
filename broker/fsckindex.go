package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// indexCheck holds the entries of an offset index against the batches as they pass.
type indexCheck struct {
	path    string
	base    int64
	entries []byte
	missed  int
}

func (c *fsck) index(dir string, base int64) (*indexCheck, error) {
	path := filepath.Join(dir, fmt.Sprintf("%020d%s", base, segment.IndexSuffix))
	raw, err := readWhole(c.fs, path)
	if errors.Is(err, fs.ErrNotExist) { // it is rebuilt
		return &indexCheck{path: path, base: base}, nil
	}
	// Zeros at the end are what Kafka preallocates.
	for len(raw) >= 8 && binary.BigEndian.Uint64(raw[len(raw)-8:]) == 0 {
		raw = raw[:len(raw)-8]
	}
	return &indexCheck{path: path, base: base, entries: raw[:len(raw)/8*8]}, err
}

func (i *indexCheck) pass(b record.Batch, position int64) {
	for len(i.entries) > 0 && int64(binary.BigEndian.Uint32(i.entries[4:])) <= position {
		offset, at := i.base+int64(binary.BigEndian.Uint32(i.entries)), int64(binary.BigEndian.Uint32(i.entries[4:]))
		if at != position || offset != b.LastOffset() {
			i.missed++
		}
		i.entries = i.entries[8:]
	}
}

func (i *indexCheck) wrong() int { return i.missed + len(i.entries)/8 }

// timesCheck does the same with a time index: each entry is a batch's largest timestamp and last offset.
type timesCheck struct {
	path    string
	base    int64
	entries []byte
	missed  int
}

func (c *fsck) times(dir string, base int64) (*timesCheck, error) {
	path := filepath.Join(dir, fmt.Sprintf("%020d%s", base, segment.TimeIndexSuffix))
	raw, err := readWhole(c.fs, path)
	if errors.Is(err, fs.ErrNotExist) { // it is rebuilt
		return &timesCheck{path: path, base: base}, nil
	}
	for len(raw) >= 12 && len(bytes.Trim(raw[len(raw)-12:], "\x00")) == 0 {
		raw = raw[:len(raw)-12]
	}
	return &timesCheck{path: path, base: base, entries: raw[:len(raw)/12*12]}, err
}

func (t *timesCheck) pass(b record.Batch) {
	for len(t.entries) > 0 {
		at := t.base + int64(binary.BigEndian.Uint32(t.entries[8:]))
		if at > b.LastOffset() {
			return
		}
		if at != b.LastOffset() || int64(binary.BigEndian.Uint64(t.entries)) != b.MaxTimestamp() {
			t.missed++
		}
		t.entries = t.entries[12:]
	}
}

func (t *timesCheck) wrong() int { return t.missed + len(t.entries)/12 }

// topicsCheck does it with a topic index: what it says of a span must be true of every batch in it, and a span must end
// with the batch it names.
type topicsCheck struct {
	path   string
	spans  []segment.TopicSpan
	missed int
	bad    error // pages nobody goes by
}

func (c *fsck) topicIndex(dir string, base int64) (*topicsCheck, error) {
	path := filepath.Join(dir, fmt.Sprintf("%020d%s", base, segment.TopicIndexSuffix))
	raw, err := readWhole(c.fs, path)
	if errors.Is(err, fs.ErrNotExist) { // then the log is read
		return &topicsCheck{path: path}, nil
	}
	t := &topicsCheck{path: path}
	t.spans, t.bad = segment.ParseTopics(raw, base)
	return t, err
}

func (t *topicsCheck) pass(b record.Batch, position int64) {
	for len(t.spans) > 0 && b.BaseOffset() >= t.spans[0].Next {
		t.missed++ // it ended with no batch
		t.spans = t.spans[1:]
	}
	if len(t.spans) == 0 || b.BaseOffset() < t.spans[0].First {
		return
	}
	s := t.spans[0]
	last := position == s.Last && s.Holds(b)
	if !s.Knows(b) || b.NextOffset() >= s.Next && !last || b.BaseOffset() == s.First && position != s.Position {
		t.missed++
		t.spans = t.spans[1:]
	} else if last {
		t.spans = t.spans[1:]
	}
}

func (t *topicsCheck) wrong() int {
	n := t.missed + len(t.spans)
	if t.bad != nil {
		n++
	}
	return n
}
