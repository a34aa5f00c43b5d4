package segment

import (
	"errors"
	"fmt"
	"io"
)

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
