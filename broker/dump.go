package broker

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
	"millrace/broker/partition"
	"millrace/broker/record"
	"millrace/broker/segment"
)

// dumpMax bounds what is read whole: everything but logs and the journal, which are streamed.
const dumpMax = 64 << 20

// recordsMax bounds one decompressed batch of a dump.
const recordsMax = 64 << 20

// Line is one thing a dump found: named values in order.
type Line []Field

// Field is one named value of a Line.
type Field struct {
	Name  string
	Value any
}

// String is the line as text: name=value, separated by spaces; strings with spaces are quoted.
func (l Line) String() string {
	words := make([]string, len(l))
	for i, f := range l {
		switch v := f.Value.(type) {
		case string:
			if words[i] = f.Name + "=" + v; v == "" || strings.ContainsAny(v, " \t\n\"") {
				words[i] = fmt.Sprintf("%s=%q", f.Name, v)
			}
		case []byte:
			words[i] = fmt.Sprintf("%s=%q", f.Name, v)
		default:
			words[i] = fmt.Sprintf("%s=%v", f.Name, v)
		}
	}
	return strings.Join(words, " ")
}

// MarshalJSON is an object with the fields in their order; bytes are base64.
func (l Line) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range l {
		name, err := json.Marshal(f.Name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(f.Value)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(append(append(name, ':'), value...))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// ErrNoDump is returned by Dump for a path that is none of Millrace's files, or one it cannot show by itself.
var ErrNoDump = errors.New("not a file of a data directory that can be dumped")

// ErrDamage is returned by Dump and found by Fsck: some bytes are not what was written. What was good was emitted.
var ErrDamage = errors.New("damaged")

// Dump hands what is in one file (a log, an index, a snapshot, a checkpoint slot, kept entries) or in a journal's directory to emit,
// line by line, and changes nothing. records adds the records of each batch.
func Dump(fsys disk.FS, path string, records bool, emit func(Line) error) error {
	fsys = readOnly{fsys}
	info, err := fsys.Stat(path)
	if err != nil {
		return err
	}
	dir, name := filepath.Split(filepath.Clean(path))
	switch inCatalog, err := holdsVote(fsys, filepath.Join(path, "..")); {
	case err != nil:
		return err
	case info.IsDir() && !inCatalog && holdsFrames(fsys, path):
		return dumpJournal(fsys, path, emit)
	case info.IsDir():
		return fmt.Errorf("%s: %w: of directories only the journal", path, ErrNoDump)
	case inCatalog || isFrames(name):
		return fmt.Errorf("%s: %w: a journal is dumped by its directory, the catalog is shown by a running broker", path, ErrNoDump)
	}
	if base, ok := segment.ParseName(name, segment.LogSuffix); ok {
		return dumpLog(fsys, filepath.Clean(dir), base, records, emit)
	}
	if strings.HasSuffix(name, partition.EntriesSuffix) {
		return dumpKept(fsys, path, emit)
	}
	raw, err := readWhole(fsys, path)
	if err != nil {
		return err
	}
	switch base, index := segment.ParseName(name, segment.IndexSuffix); {
	case index:
		return dumpEntries(raw, 8, func(p []byte) Line {
			return Line{{"offset", base + int64(binary.BigEndian.Uint32(p))}, {"position", binary.BigEndian.Uint32(p[4:])}}
		}, emit)
	case strings.HasSuffix(name, segment.TimeIndexSuffix):
		base, _ := segment.ParseName(name, segment.TimeIndexSuffix)
		return dumpEntries(raw, 12, func(p []byte) Line {
			return Line{{"timestamp", int64(binary.BigEndian.Uint64(p))}, {"offset", base + int64(binary.BigEndian.Uint32(p[8:]))}}
		}, emit)
	case strings.HasSuffix(name, segment.TopicIndexSuffix):
		base, _ := segment.ParseName(name, segment.TopicIndexSuffix)
		return dumpTopics(raw, base, emit)
	case strings.HasSuffix(name, ".snapshot"):
		return dumpSnapshot(raw, emit)
	case name == "checkpoint.0" || name == "checkpoint.1":
		return dumpSlot(raw, emit)
	case name == metaName || name == metaCopy || name == partition.CleanedName || name == segment.EpochsName || name == segment.MetadataName || name == segment.CausesName:
		for line := range strings.Lines(string(raw)) {
			if err := emit(Line{{"line", strings.TrimSuffix(line, "\n")}}); err != nil {
				return err
			}
		}
		return checkText(fsys, path, raw)
	}
	return fmt.Errorf("%s: %w", path, ErrNoDump)
}

// checkText says what is wrong with a file of text, whose lines are shown whatever they say.
func checkText(fsys disk.FS, path string, raw []byte) (err error) {
	switch dir, name := filepath.Split(path); name {
	case metaName, metaCopy:
		_, err = parseMeta(raw)
	case segment.EpochsName:
		_, err = segment.ReadEpochs(fsys, filepath.Clean(dir))
	case segment.CausesName:
		_, err = segment.ReadCauses(fsys, filepath.Clean(dir))
	case segment.MetadataName:
		_, err = segment.ReadMetadata(fsys, filepath.Clean(dir))
	}
	if err == nil || errors.Is(err, ErrNewerFormat) {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", path, ErrDamage, err)
}

func entryLine(frame uint64, e *journal.Entry) Line {
	line := Line{
		{"frame", frame},
		{"kind", e.Kind.String()},
		{"topic", catalog.TopicID(e.Topic).String()},
		{"partition", e.Partition},
		{"segment", e.Segment},
		{"position", e.Position},
		{"base", e.Base},
		{"length", e.Length},
	}
	switch e.Kind {
	case journal.Pointer:
		line = append(line, Field{"crc", fmt.Sprintf("%08x", e.CRC)})
	case journal.TopicCreated:
		line = append(line, Field{"name", string(e.Bytes)})
	}
	return line
}

// dumpKept is dumpJournal for what was kept of it in offline/ or quarantine/.
func dumpKept(fsys disk.FS, path string, emit func(Line) error) error {
	damaged, err := partition.ReadEntries(fsys, path, func(frame uint64, e *journal.Entry) error { return emit(entryLine(frame, e)) })
	if errors.Is(err, partition.ErrEntries) || err == nil && damaged > 0 {
		return fmt.Errorf("%s: %d entries: %w", path, damaged, errors.Join(err, ErrDamage))
	}
	return err
}

// isFrames says whether a name is that of a journal's file: 20 digits.
func isFrames(name string) bool {
	return len(name) == 20 && strings.Trim(name, "0123456789") == ""
}

func holdsFrames(fsys disk.FS, dir string) bool {
	entries, err := fsys.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return isFrames(e.Name()) })
}

// holdsVote says whether a directory is the catalog's. Its log has names as the journal's files have, and other bytes.
func holdsVote(fsys disk.FS, dir string) (bool, error) {
	_, err := fsys.Stat(filepath.Join(dir, "vote"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func dumpJournal(fsys disk.FS, dir string, emit func(Line) error) error {
	r, err := journal.Scan(fsys, dir, func(f journal.FrameInfo) error {
		if err := emit(Line{
			{"frame", f.Index},
			{"journal", fmt.Sprintf("%016x", f.ID)},
			{"file", f.File},
			{"at", f.Offset},
			{"size", f.Size},
			{"packed", f.Packed},
			{"entries", len(f.Entries)},
		}); err != nil {
			return err
		}
		for i := range f.Entries {
			if err := emit(entryLine(f.Index, &f.Entries[i])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := emit(Line{
		{"frames", r.Frames},
		{"first", r.First},
		{"last", r.Last},
		{"bytes", r.Bytes},
		{"zeros", r.ZeroBytes},
		{"old", r.OldBytes},
		{"torn", r.TornBytes},
		{"damaged", r.DamagedBytes},
		{"missing", r.Missing},
	}); err != nil {
		return err
	}
	if r.DamagedBytes > 0 || r.Missing > 0 {
		return fmt.Errorf("%s: %d bytes and %d frames: %w", dir, r.DamagedBytes, r.Missing, ErrDamage)
	}
	return nil
}

func dumpLog(fsys disk.FS, dir string, base int64, records bool, emit func(Line) error) error {
	s, err := segment.Open(fsys, dir, base, segment.Config{})
	if err != nil {
		return err
	}
	valid, err := s.Scan(0, func(b record.Batch, position int64) error {
		if err := emit(Line{
			{"position", position},
			{"size", len(b)},
			{"base", b.BaseOffset()},
			{"last", b.LastOffset()},
			{"count", b.Count()},
			{"epoch", b.LeaderEpoch()},
			{"codec", fmt.Sprint(b.Codec())},
			{"maxTimestamp", b.MaxTimestamp()},
			{"producer", b.ProducerID()},
			{"producerEpoch", b.ProducerEpoch()},
			{"sequence", b.BaseSequence()},
			{"transactional", b.Transactional()},
			{"control", b.Control()},
			{"crc", fmt.Sprintf("%08x", b.CRC())},
		}); err != nil || !records {
			return err
		}
		for r, err := range b.Records(recordsMax) {
			if err != nil {
				return err
			}
			if err := emit(Line{{"offset", r.Offset}, {"timestamp", r.Timestamp}, {"key", r.Key}, {"value", r.Value}, {"headers", len(r.Headers)}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && valid < s.Size() {
		err = fmt.Errorf("%s: no valid batch at byte %d of %d: %w", s.Path(), valid, s.Size(), ErrDamage)
	}
	return errors.Join(err, s.Close())
}

func dumpEntries(raw []byte, size int, line func([]byte) Line, emit func(Line) error) error {
	for ; len(raw) >= size; raw = raw[size:] {
		if err := emit(line(raw)); err != nil {
			return err
		}
	}
	if len(raw) > 0 {
		return fmt.Errorf("%d bytes of an entry at the end: %w", len(raw), ErrDamage)
	}
	return nil
}

func dumpTopics(raw []byte, base int64, emit func(Line) error) error {
	spans, bad := segment.ParseTopics(raw, base)
	for _, s := range spans {
		if err := emit(Line{
			{"offset", s.First},
			{"next", s.Next},
			{"position", s.Position},
			{"last", s.Last},
			{"topics", s.Topics},
			{"beginnings", s.Under},
		}); err != nil {
			return err
		}
	}
	if bad != nil {
		return errors.Join(bad, ErrDamage)
	}
	return nil
}

func dumpSnapshot(raw []byte, emit func(Line) error) error {
	states, err := segment.ParseSnapshot(raw)
	if err != nil {
		return errors.Join(err, ErrDamage)
	}
	for _, s := range states {
		if err := emit(Line{
			{"producer", s.ID},
			{"epoch", s.Epoch},
			{"lastSequence", s.LastSequence},
			{"lastOffset", s.LastOffset},
			{"offsetDelta", s.OffsetDelta},
			{"lastTime", time.UnixMilli(s.LastTime).UTC().Format(time.RFC3339Nano)},
		}); err != nil {
			return err
		}
	}
	return nil
}

func dumpSlot(raw []byte, emit func(Line) error) error {
	slot, err := partition.DecodeSlot(raw)
	if err != nil {
		return errors.Join(err, ErrDamage)
	}
	if err := emit(Line{
		{"sequence", slot.Sequence},
		{"journal", fmt.Sprintf("%016x", slot.Mark.ID)},
		{"frame", slot.Mark.Index},
		{"partitions", len(slot.Partitions)},
	}); err != nil {
		return err
	}
	for _, e := range slot.Partitions {
		if err := emit(Line{
			{"topic", e.Topic.String()},
			{"partition", e.Partition},
			{"segment", e.Segment},
			{"position", e.Position},
			{"next", e.Next},
			{"start", e.Start},
			{"snapshot", e.Snapshot},
		}); err != nil {
			return err
		}
	}
	return nil
}

func readWhole(fsys disk.FS, path string) ([]byte, error) {
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, dumpMax))
	return raw, errors.Join(err, f.Close())
}

// readOnly is a filesystem that nothing can change: dump and fsck promise it.
type readOnly struct{ disk.FS }

func (r readOnly) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if flag&(os.O_CREATE|os.O_TRUNC) != 0 {
		flag &^= os.O_CREATE | os.O_TRUNC
	}
	f, err := r.FS.OpenFile(name, flag&^(os.O_WRONLY|os.O_RDWR), perm)
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f}, nil
}

func (readOnly) MkdirAll(name string, _ os.FileMode) error { return denied("mkdir", name) }
func (readOnly) Rename(name, _ string) error               { return denied("rename", name) }
func (readOnly) Remove(name string) error                  { return denied("remove", name) }
func (readOnly) SyncDir(string, disk.Point) error          { return nil }

type readOnlyFile struct{ disk.File }

func (f readOnlyFile) WriteAt([]byte, int64) (int, error) { return 0, denied("write", f.Name()) }
func (f readOnlyFile) Truncate(int64) error               { return denied("truncate", f.Name()) }
func (readOnlyFile) Sync(disk.Point) error                { return nil }

func denied(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission} }
