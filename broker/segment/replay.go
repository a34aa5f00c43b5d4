package segment

import "fmt"

// Put is Append for replay: batches belong at position, which may lie before the end of the log, and the log ends behind
// them. The bytes are written whatever is there already: after a failed sync of the last life the page cache shows what
// the disk does not have. It returns ErrPosition for a position behind the end.
func (s *Segment) Put(position int64, batches []byte) error {
	return s.replay(position, batches, s.writeLog)
}

// Adopt is Put for bytes that lie there already, as the caller has just read them: only their sync is due.
func (s *Segment) Adopt(position int64, batches []byte) error {
	return s.replay(position, batches, func(int64, []byte) error { return s.mark(position) })
}

func (s *Segment) replay(position int64, batches []byte, place func(int64, []byte) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	if size := s.Size(); position < 0 || position > size {
		return fmt.Errorf("%s: %w: %d of %d", s.Path(), ErrPosition, position, size)
	}
	next, err := s.walkNew(batches, position, -1, nil)
	if err != nil {
		return err
	}
	if err := s.doubtIndexes(position); err != nil {
		return err
	}
	if err := place(position, batches); err != nil {
		return err
	}
	s.mu.Lock()
	s.size = position + int64(len(batches))
	s.physical = max(s.physical, s.size)
	s.changedFrom(position)
	s.tail = s.size
	s.next = next
	s.mu.Unlock()
	s.noteTopics(position, batches)
	return nil
}

// mark notes that what lies at position may not have been synced by the last life.
func (s *Segment) mark(position int64) error {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote(f, position)
	return nil
}

// doubtIndexes drops index entries for batches at or behind position, once for a run of replay that moves forward.
// What was never synced may be of batches that lie there no more, and look right. write is held.
func (s *Segment) doubtIndexes(position int64) error {
	if position >= s.indexEnd {
		return nil
	}
	s.mu.Lock()
	s.indexed = false
	s.mu.Unlock()
	if err := s.cutIndexes(position); err != nil {
		return err
	}
	s.indexEnd = position
	return nil
}

// changedFrom forgets what is known of the log from position on. mu is held, size is already the new one.
func (s *Segment) changedFrom(position int64) {
	s.prefix = min(s.prefix, position)
	s.tail = min(s.tail, s.size)
	s.prefix = min(s.prefix, s.tail)
	s.hints = [hintsKept]hint{}
	kept := s.damages[:0]
	for _, d := range s.damages {
		if d.Next <= position {
			kept = append(kept, d)
		}
	}
	clear(s.damages[len(kept):])
	s.damages = kept
	s.indexed = false
}

// Truncate ends the log at position, which must be where a batch starts or the log ends, and drops the index entries
// behind it. Nothing is synced: the caller's journal repeats it. It returns ErrPosition for a position behind the end.
func (s *Segment) Truncate(position int64) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	size, physical := s.size, s.physical
	s.mu.Unlock()
	if position < 0 || position > size {
		return fmt.Errorf("%s: %w: %d of %d", s.Path(), ErrPosition, position, size)
	}
	if physical > position {
		if err := s.cutLog(position); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if s.suspect >= position {
		s.suspect = -1
	}
	if position == size {
		s.mu.Unlock()
		return nil
	}
	s.size = position
	s.changedFrom(position)
	s.next = -1
	s.mu.Unlock()
	s.topicsFailed(s.cutTopics(position))
	return s.cutIndexes(position)
}

// cutIndexes drops the entries for batches at or behind position, and all time index entries that may be of one.
func (s *Segment) cutIndexes(position int64) error {
	n, err := s.plausible(kindIndex, position)
	if err != nil {
		return err
	}
	if err := s.cutIndex(kindIndex, n*indexEntry); err != nil {
		return err
	}
	last := s.base - 1
	if n > 0 {
		e, err := s.openEntries(kindIndex)
		if err != nil {
			return err
		}
		last, _, err = e.offset(n - 1)
		e.close()
		if err != nil {
			return err
		}
	}
	times, err := s.plausible(kindTime, position)
	if err != nil {
		return err
	}
	e, err := s.openEntries(kindTime)
	if err != nil {
		return err
	}
	defer e.close()
	for ; times > 0; times-- {
		_, offset, err := e.time(times - 1)
		if err != nil {
			return err
		}
		if offset <= last {
			break
		}
	}
	return s.cutIndex(kindTime, times*timeEntry)
}
