package segment

import (
	"errors"
	"fmt"
	"io"

	"millrace/broker/disk"
)

// Sync makes the log durable, its name in the directory included. The indexes are not synced: they can be built again.
// After an error nothing written since the last good Sync may be relied on, and every further Sync is ErrUnsynced
// until all of it has been written again by Put or cut off by Truncate.
func (s *Segment) Sync() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.mu.Lock()
	from := s.unsynced
	suspect := s.suspect >= 0 && s.suspect < s.size
	named := s.named
	if !suspect {
		s.suspect = -1
	}
	s.mu.Unlock()
	if suspect {
		return fmt.Errorf("%s: %w", s.Path(), ErrUnsynced)
	}
	if from < 0 {
		return nil
	}
	if err := s.syncLog(); err != nil {
		return err
	}
	if named {
		return nil
	}
	err := s.fs.SyncDir(s.dir, syncDir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unsynced = from // the bytes are safe, but not where a restart would find them
		return err
	}
	s.named = true
	return nil
}

// StartSync has the disk begin to take what Sync would make durable, where the filesystem can. It promises nothing. Who
// has many segments to sync starts them all first: a filesystem with a journal of its own then commits their sizes
// together, and not one by one.
func (s *Segment) StartSync() {
	s.mu.Lock()
	clean := s.unsynced < 0
	s.mu.Unlock()
	if clean {
		return
	}
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return // Sync meets it again, and tells
	}
	if f, ok := f.file.(disk.Starter); ok {
		f.StartSync()
	}
	s.handles.release(f)
}

// syncLog syncs what was written since the last time.
func (s *Segment) syncLog() error {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	s.mu.Lock()
	from, writes := s.unsynced, s.handles.pending(f)
	s.unsynced = -1
	s.mu.Unlock()
	if err := f.file.Sync(s.syncPoint()); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.suspect < 0 || from < s.suspect {
			s.suspect = from
		}
		if s.unsynced < 0 || from < s.unsynced {
			s.unsynced = from // a cut leaves no byte in doubt, and is not durable all the same
		}
		return err
	}
	s.handles.synced(f, writes)
	return nil
}

// Rewrite writes again, from the page cache, what a failed sync left in doubt, after checking it batch by batch: the
// kernel has marked those pages clean, and a sync alone would not try them again. The next Sync says whether the disk
// has taken them. It returns a *DamageError when the bytes are not good any more; then only the journal has them.
func (s *Segment) Rewrite() error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	from, size := s.suspect, s.size
	s.mu.Unlock()
	if from < 0 || from >= size {
		return nil
	}
	c, done, err := s.walk(from, size)
	if err != nil {
		return err
	}
	defer done()
	for {
		_, err := c.step()
		if errors.Is(err, io.EOF) {
			break
		}
		if isBad(err) {
			d, derr := s.damaged(c, err)
			if derr != nil {
				return derr
			}
			return d
		}
		if err != nil {
			return err
		}
	}
	for pos := from; pos < size; {
		p, err := c.w.peek(pos, int(min(size-pos, windowSize)), windowSize, size)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Path(), err)
		}
		if err := s.writeLog(pos, p); err != nil {
			return err
		}
		pos += int64(len(p))
	}
	return nil
}
