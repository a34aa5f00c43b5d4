package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// CleanedName is the file, in the data directory, that says up to which offset each log was compacted: Kafka's
// cleaner-offset-checkpoint, version 0, "topic partition offset" a line. It is never synced. What it loses is work that is
// done again, and what it gets wrong hides older values of a key until that key is written once more, and never a newer one.
const CleanedName = "cleaner-offset-checkpoint"

// cleanedMax bounds what is read of it.
const cleanedMax = 8 << 20

// SaveCleaned writes the file anew.
func (s *Store) SaveCleaned() error {
	type line struct {
		topic string
		index int32
		to    int64
	}
	var lines []line
	for p := range s.All() {
		if to := p.CleanedTo(); to > 0 {
			lines = append(lines, line{p.topic.Name, p.index, to})
		}
	}
	slices.SortFunc(lines, func(a, b line) int {
		return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.index, b.index))
	})
	text := fmt.Appendf(nil, "0\n%d\n", len(lines))
	for _, l := range lines {
		text = fmt.Appendf(text, "%s %d %d\n", l.topic, l.index, l.to)
	}
	name := filepath.Join(s.cfg.Dir, CleanedName)
	f, err := s.cfg.FS.OpenFile(name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return s.cfg.FS.Rename(name+".tmp", name)
}

// loadCleaned gives each partition what the file says of it, where that is possible at all.
func (s *Store) loadCleaned() {
	text, err := s.readCleaned()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("compacted topics are compacted from their beginning: it is not known how far they are", "err", err)
		}
		return
	}
	known := make(map[string]int64)
	for l := range strings.Lines(text) {
		var topic string
		var index int32
		var to int64
		if n, err := fmt.Sscanf(l, "%s %d %d\n", &topic, &index, &to); n == 3 && err == nil {
			known[fmt.Sprintf("%s-%d", topic, index)] = to
		}
	}
	for p := range s.All() {
		if to := known[p.String()]; to > 0 && to <= p.Durable() {
			p.Cleaned(to)
		}
	}
}

func (s *Store) readCleaned() (string, error) {
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.cfg.Dir, CleanedName), os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, cleanedMax))
	return string(text), errors.Join(err, f.Close())
}
