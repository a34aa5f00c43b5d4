package segment

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// How a compacted segment takes the place of others, so that a cut at any step leaves the old ones or the new one:
//
//   - It is written as <base>.log.cleaned and synced. Until here a restart removes it.
//   - In the place of one segment: it is renamed over that one's log, and the directory is synced.
//   - In the place of several: it is renamed to <base>.log.swap and the directory synced, which decides it: from here on a
//     restart goes on. The others are unlinked and the directory synced; then it is renamed over the first one's log, and
//     the directory is synced.
//
// Its indexes are .cleaned to the end: they are not needed.
const (
	stageFinal = iota
	stageCleaned
	stageSwap
)

var stages = [...][kinds]string{
	stageFinal:   {},
	stageCleaned: {CleanedSuffix, CleanedSuffix, CleanedSuffix, CleanedSuffix},
	stageSwap:    {SwapSuffix, CleanedSuffix, CleanedSuffix, CleanedSuffix},
}

var (
	syncCleaned  = disk.NewPoint("segment.cleaned")
	syncSwap     = disk.NewPoint("segment.swap")
	syncMerged   = disk.NewPoint("segment.merged")
	syncReplaced = disk.NewPoint("segment.replaced")
)

// CreateCleaned makes an empty segment that will take the place of one or more, the first of which has that base. Until
// Ready and Replace have returned nil it is nothing to a restart; Remove gives it up.
func CreateCleaned(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) {
	s := newSegment(fs, dir, base, cfg)
	s.stage.Store(stageCleaned)
	s.named = true // Replace sees to it
	if err := s.create(); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// Ready makes what was appended durable, and, where several segments are to go, the decision that they do: after
// an error nothing is decided, and after nil with merges only Replace may follow. modified is when its records arrived.
func (s *Segment) Ready(merges bool, modified time.Time) error {
	if err := s.Seal(); err != nil {
		return err
	}
	if err := s.setModified(modified); err != nil {
		return err
	}
	if err := s.Sync(); err != nil || !merges {
		return err
	}
	if err := s.rename(stageSwap); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir, syncSwap)
}

// setModified is for retention after a restart, which goes by it. A file that cannot be told keeps the time of its making.
func (s *Segment) setModified(at time.Time) error {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	if f, ok := f.file.(disk.Dated); ok {
		return f.SetModified(at)
	}
	return nil
}

// Replace unlinks the segments whose place s takes and gives s the name of the first. They are closed: what reads spans of
// them reads on, and nothing opens them again. When it returns nil all of it is durable. After an error it may be called
// again; until it succeeds s can be read, and must not be changed.
func (s *Segment) Replace(olds []*Segment) error {
	if !s.alone { // else this was done by a call that failed later, and the index may be the new one by now
		if err := s.unlink(olds); err != nil {
			return err
		}
		s.alone = true
	}
	if err := s.rename(stageFinal); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir, syncReplaced)
}

// unlink removes, durably, all of the files of segments but the log whose name s takes.
func (s *Segment) unlink(olds []*Segment) error {
	for _, o := range olds {
		if err := o.Close(); err != nil {
			return err
		}
		for _, k := range inOrder {
			if k == kindLog && o.base == s.base {
				continue // the rename takes it
			}
			if err := remove(s.fs, o.path(k)); err != nil {
				return err
			}
		}
	}
	if len(olds) < 2 {
		return nil
	}
	return s.fs.SyncDir(s.dir, syncMerged)
}

// rename gives the files the names of a stage, the log last.
func (s *Segment) rename(stage int32) error {
	s.naming.Lock()
	defer s.naming.Unlock()
	for _, k := range inOrder {
		from, to := s.path(k), filepath.Join(s.dir, fileName(s.base, suffixes[k]+stages[stage][k]))
		if from == to {
			continue
		}
		if err := s.fs.Rename(from, to); err != nil && (k == kindLog || !errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	s.stage.Store(stage)
	return nil
}

// syncPoint is the name of the log's sync.
func (s *Segment) syncPoint() disk.Point {
	if s.stage.Load() == stageCleaned {
		return syncCleaned
	}
	return syncLog
}

func remove(fs disk.FS, name string) error {
	if err := fs.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// OpenSwap opens a segment that was decided to take the place of several and that has not come to it: for whoever looks at
// a directory without ending what was begun there.
func OpenSwap(fs disk.FS, dir string, base int64, cfg Config) (*Segment, error) {
	s := newSegment(fs, dir, base, cfg)
	s.stage.Store(stageSwap)
	return s, s.open()
}

// FinishSwaps ends what compactions had begun in a directory whose entries are given when the process ended: what was not
// decided is removed, what was decided is done. changed says whether there was anything. damaged names what was decided
// and has rotted since.
func FinishSwaps(fs disk.FS, dir string, entries []os.DirEntry) (changed bool, damaged []string, err error) {
	var swaps, logs []int64
	var left []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), SwapSuffix)
		if base, log := ParseName(name, LogSuffix); ok && log {
			swaps = append(swaps, base)
		} else if base, log := ParseName(e.Name(), LogSuffix); log {
			logs = append(logs, base)
		} else if ok || strings.HasSuffix(e.Name(), CleanedSuffix) {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	for _, name := range left {
		if err := remove(fs, name); err != nil {
			return true, nil, err
		}
	}
	slices.Sort(logs)
	for _, base := range swaps {
		s := newSegment(fs, dir, base, Config{Sparse: true})
		s.stage.Store(stageSwap)
		ok, err := s.finishSwap(logs)
		if !ok {
			damaged = append(damaged, s.Path())
		}
		if err := errors.Join(err, s.Close()); err != nil {
			return true, damaged, err
		}
	}
	return len(left)+len(swaps) > 0, damaged, nil
}

// finishSwap does what Replace did not come to do. logs are the bases of the logs there are. ok is false when the segment
// is damaged.
func (s *Segment) finishSwap(logs []int64) (ok bool, err error) {
	if err := s.open(); err != nil {
		return true, err
	}
	end, ok, err := s.reach()
	if err != nil {
		return ok, err
	}
	if !ok {
		if whole, err := s.stillThere(logs); err != nil || whole {
			return false, errors.Join(err, remove(s.fs, s.Path()))
		}
	}
	// The process may have been killed before the decision was durable.
	if err := s.fs.SyncDir(s.dir, syncSwap); err != nil {
		return ok, err
	}
	var olds []*Segment
	for _, base := range logs {
		if base >= s.base && base < end {
			olds = append(olds, newSegment(s.fs, s.dir, base, s.cfg))
		}
	}
	return ok, s.Replace(olds)
}

// reach is the offset after the last batch that can be read, and whether all can be.
func (s *Segment) reach() (end int64, whole bool, err error) {
	end, whole = s.base, s.size > 0
	for from := int64(0); from < s.size; {
		valid, err := s.Scan(from, func(b record.Batch, _ int64) error {
			whole = whole && b.BaseOffset() == end
			end = b.NextOffset()
			return nil
		})
		if err != nil || valid == s.size {
			return end, whole, err
		}
		whole = false
		d, err := s.Resync(valid, s.size)
		if err != nil || d.NextOffset < 0 {
			return end, false, err
		}
		from = d.Next
	}
	return end, whole, nil
}

// stillThere says whether the segments that s was to replace are all there and whole: each ends where the next one begins.
func (s *Segment) stillThere(logs []int64) (bool, error) {
	at := s.base
	for i, base := range logs {
		switch {
		case base < s.base:
			continue
		case base != at:
			return false, nil
		case i+1 == len(logs): // the active one is recovery's to judge
			return true, nil
		}
		o, err := Open(s.fs, s.dir, base, Config{Sparse: true})
		if err != nil {
			return false, err
		}
		end, whole, err := o.reach()
		if err := errors.Join(err, o.Close()); err != nil || !whole {
			return false, err
		}
		at = end
	}
	return false, nil
}
