package partition

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
)

var (
	pointKept    = disk.NewPoint("offline.file")
	pointKeptDir = disk.NewPoint("offline.directory")
)

// OfflineDir is where, in the data directory, the journal's entries of partitions wait that are offline.
const OfflineDir = "offline"

const (
	keptNewSuffix = EntriesSuffix + ".new" // one that was not finished
	keptBadSuffix = ".damaged"
	// keptAtOnce is how many files of entries are written in one pass over the journal.
	keptAtOnce = 64
	// A partition that is offline is tried again after retryMin, twice as long after each failure, at most retryMax; in ms.
	retryMin, retryMax = int64(1_000), int64(300_000)
	// patience is how often a disk may fail to read what recovery wants before that counts as lost, as damage does.
	patience = 8
)

// offline is a partition whose files could not be opened: a disk that failed. Nothing of it is lost: its directory stays
// as it is, each checkpoint goes on naming the place where the last one saw its end, and what the journal has behind
// that place is kept in a file of its own, so that the journal need not wait for it. Changed under Store.creating and mu.
type offline struct {
	topic  Topic
	config catalog.TopicConfig
	slot   *SlotEntry // nil for none
	keeps  *keptFile
	err    error
	tries  int
	retry  int64 // ms: not tried again before
}

// keptFile is one file in offline/.
type keptFile struct {
	path string
	head entriesHead
	past bool // a checkpoint has seen what came of the entries
}

// keptPath is the file of a partition's entries.
func (s *Store) keptPath(k key) string {
	return filepath.Join(s.cfg.Dir, OfflineDir, fmt.Sprintf("%x-%d%s", k.topic[:], k.index, EntriesSuffix))
}

// parseKept is keptPath's opposite.
func parseKept(name string) (k key, ok bool) {
	name, ok = strings.CutSuffix(name, EntriesSuffix)
	id, index, _ := strings.Cut(name, "-")
	if !ok || len(id) != 2*len(k.topic) {
		return k, false
	}
	_, bad := hex.Decode(k.topic[:], []byte(id))
	n, err := strconv.ParseInt(index, 10, 32)
	k.index = int32(n)
	return k, bad == nil && err == nil && n >= 0
}

// Offline says why a partition cannot be used that the disk has, wrapped in ErrOffline; nil for one that can, and for
// one that is not there.
func (s *Store) Offline(topic catalog.TopicID, index int32) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o := s.offline[key{topic, index}]
	if o == nil {
		return nil
	}
	return fmt.Errorf("%s-%d: %w: %w", o.topic.Name, index, ErrOffline, o.err)
}

// OfflinePartition is a partition that the disk has and that cannot be used now.
type OfflinePartition struct {
	Topic Topic
	Index int32
	Err   error // why
}

// OfflinePartitions lists those that are offline, in no order.
func (s *Store) OfflinePartitions() []OfflinePartition {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]OfflinePartition, 0, len(s.offline))
	for k, o := range s.offline {
		list = append(list, OfflinePartition{o.topic, k.index, o.err})
	}
	return list
}

// anyDue says whether a partition is to be tried again.
func (s *Store) anyDue(nowMS int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, o := range s.offline {
		if nowMS >= o.retry {
			return true
		}
	}
	return false
}

// bringBack tries every partition that is due, and returns those that are back.
func (s *Store) bringBack(nowMS int64) (back []*Partition) {
	s.creating.Lock()
	defer s.creating.Unlock()
	s.mu.RLock()
	due := slices.Collect(maps.Keys(s.offline))
	s.mu.RUnlock()
	for _, k := range due {
		o := s.offline[k] // written under creating alone
		if nowMS < o.retry {
			continue
		}
		p, err := s.reopen(k, o)
		s.mu.Lock()
		if s.closed && err == nil {
			err = errors.Join(ErrDeleted, closePieces(p.pieces))
		}
		if err != nil {
			o.err, o.tries = err, o.tries+1
			o.retry = nowMS + min(retryMin<<min(o.tries, 16), retryMax)
			s.mu.Unlock()
			s.log.Warn("partition stays offline", "partition", fmt.Sprintf("%s-%d", o.topic.Name, k.index), "err", err)
			continue
		}
		delete(s.offline, k)
		s.partitions[k] = p
		s.mu.Unlock()
		s.log.Info("partition is back", "partition", p.String(), "start", p.Start(), "end", p.End())
		back = append(back, p)
	}
	return back
}

// reopen is recovery for one partition, from its checkpoint and what was kept of it. Before anybody can use it a
// checkpoint knows where it ends, and what was kept is gone: entries that came after must never meet those again.
func (s *Store) reopen(k key, o *offline) (*Partition, error) {
	r := newRecovery(s)
	r.complete, r.last = o.keeps.head.complete || o.keeps.past, true
	r.pointed.lenient = o.tries >= patience
	l := r.newLog(o.topic, k.index, o.config)
	l.slot, l.saved, l.keeps, l.gap = o.slot, o.slot, o.keeps, o.keeps.head.gaps
	r.found[k] = l
	if _, err := s.cfg.FS.Stat(l.p.dir); errors.Is(err, fs.ErrNotExist) {
		l.missing = true
	} else if err != nil {
		return nil, err
	}
	err := r.replayKept(r.collectEntry)
	if err == nil {
		l.giveUp(l.begin())
		err = r.replayKept(r.applyEntry)
	}
	r.flush()
	l.giveUp(errors.Join(err, r.pointed.close()))
	p := l.finish()
	if p == nil {
		return nil, l.err
	}
	if err = s.checkpointWith(o, p); err == nil {
		p.recorded = true
		err = s.removeKept(o.keeps.path)
	}
	if err != nil {
		s.producers.Add(-int64(p.producers.forget()))
		return nil, errors.Join(err, closePieces(p.pieces))
	}
	return p, nil
}

// removeKept removes a file of entries for good.
func (s *Store) removeKept(path string) error {
	if err := s.cfg.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.cfg.FS.SyncDir(filepath.Dir(path), pointKeptDir)
}

// findKept finds what earlier lives kept of partitions they could not open.
func (r *recovery) findKept() error {
	s := r.s
	dir := filepath.Join(s.cfg.Dir, OfflineDir)
	entries, err := s.cfg.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), keptNewSuffix) {
			if err := s.cfg.FS.Remove(path); err != nil {
				return err
			}
			continue
		}
		k, ok := parseKept(e.Name())
		if !ok {
			continue
		}
		head, _, err := readEntries(s.cfg.FS, path, nil)
		if errors.Is(err, ErrEntries) {
			r.lost("%s is damaged: what the journal had of a partition that was offline is lost: %v", e.Name(), err)
			if l := r.found[k]; l != nil {
				l.gap = true
			}
			err = s.cfg.FS.Rename(path, path+keptBadSuffix)
		} else if err == nil {
			err = r.adoptKept(k, &keptFile{path: path, head: head})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// adoptKept gives a partition's log what was kept of it.
func (r *recovery) adoptKept(k key, f *keptFile) error {
	l := r.found[k]
	if l == nil {
		t, cfg, ok := r.s.cfg.Known(k.topic)
		if !ok {
			r.s.log.Warn("a file keeps entries of a topic that is neither on the disk nor in the catalog", "file", f.path)
			return nil
		}
		l = r.newLog(t, k.index, cfg)
		l.missing = true
		r.found[k] = l
	}
	if r.complete && !sameSlot(l.slot, f.head.slot) {
		// The partition had come back, and a checkpoint has seen it since.
		return r.s.removeKept(f.path)
	}
	l.keeps, l.complete, l.gap = f, f.head.complete, f.head.gaps
	l.slot, l.saved = f.head.slot, f.head.slot
	return nil
}

func sameSlot(a, b *SlotEntry) bool { return a == b || a != nil && b != nil && *a == *b }

// replayKept hands what was kept of each partition to fn, as entries that come before the journal's.
func (r *recovery) replayKept(fn func(place, *journal.Entry) error) error {
	for _, l := range r.found {
		if l.keeps == nil || l.keeps.past || l.failed {
			continue
		}
		at := place{}
		_, damaged, err := readEntries(r.s.cfg.FS, l.keeps.path, func(_ uint64, e *journal.Entry) error {
			if r.facts.deleted[e.Topic] {
				return nil
			}
			at.entry++
			return fn(at, e)
		})
		if damaged > 0 && !l.gap {
			l.gap = true
			r.lost("%s: %d of the journal's entries that were kept while it was offline are damaged", l.p, damaged)
		}
		l.giveUp(err)
	}
	return nil
}

// kept says whether an entry of the journal is among those that were kept: the partition was offline.
func (r *recovery) kept(frame uint64, e *journal.Entry) bool {
	l := r.found[key{e.Topic, e.Partition}]
	if l == nil || l.keeps == nil {
		return false
	}
	upto := l.keeps.head.upto
	return upto.ID == r.s.journal.Mark().ID && frame <= upto.Index
}

// keep writes down what the journal has of each partition that was given up. When it returns nil the journal may forget.
func (r *recovery) keep() error {
	var failed []*log
	for _, l := range r.found {
		if l.failed {
			failed = append(failed, l)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	s := r.s
	dir := filepath.Join(s.cfg.Dir, OfflineDir)
	if err := s.cfg.FS.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for some := range slices.Chunk(failed, keptAtOnce) {
		if err := r.keepSome(some); err != nil {
			return err
		}
	}
	if err := errors.Join(s.cfg.FS.SyncDir(dir, pointKeptDir), s.cfg.FS.SyncDir(s.cfg.Dir, pointKeptDir)); err != nil {
		return err
	}
	for _, l := range failed {
		s.offline[l.key()] = &offline{topic: l.p.topic, config: *l.p.config.Load(), slot: l.saved, keeps: l.keeps, err: l.err}
	}
	return nil
}

func (r *recovery) keepSome(some []*log) (err error) {
	s := r.s
	writers := make(map[key]*entriesWriter, len(some))
	defer func() {
		if err != nil {
			for _, w := range writers {
				err = errors.Join(err, w.file.Close())
			}
		}
	}()
	heads := make(map[key]entriesHead, len(some))
	for _, l := range some {
		k := l.key()
		heads[k] = entriesHead{upto: s.journal.Mark(), slot: l.saved, complete: l.complete, gaps: l.gaps()}
		w, err := createEntries(s.cfg.FS, strings.TrimSuffix(s.keptPath(k), EntriesSuffix)+keptNewSuffix, heads[k])
		if err != nil {
			return err
		}
		writers[k] = w
		if l.keeps != nil {
			if _, _, err := readEntries(s.cfg.FS, l.keeps.path, w.add); err != nil {
				return err
			}
		}
	}
	if _, err := s.journal.Replay(func(f journal.Frame) error {
		for i := range f.Entries {
			e := &f.Entries[i]
			w := writers[key{e.Topic, e.Partition}]
			if w == nil || r.kept(f.Index, e) || f.Index == r.torn && (e.Kind == journal.Append || e.Kind == journal.Pointer) {
				continue
			}
			if err := w.add(f.Index, e); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, l := range some {
		k := l.key()
		w := writers[k]
		delete(writers, k)
		if err := w.finish(pointKept); err != nil {
			return err
		}
		l.keeps = &keptFile{path: s.keptPath(k), head: heads[k]}
		if err := s.cfg.FS.Rename(w.file.Name(), l.keeps.path); err != nil {
			return err
		}
	}
	return nil
}
