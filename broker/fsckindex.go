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
