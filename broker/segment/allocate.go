package segment

import (
	"errors"

	"millrace/broker/disk"
)

// Allocate has the disk keep space for the log's first n bytes: Kafka's preallocate, without its zeros at the end of the
// file. It is forgotten when the segment is opened again, cut, or sealed, which gives back what is not used; to ask again
// costs little. Where the filesystem cannot keep space nothing happens, and Spare stays 0.
func (s *Segment) Allocate(n int64) error {
	s.write.Lock()
	defer s.write.Unlock()
	f, err := s.handles.acquire(s, kindLog, true)
	if err != nil {
		return err
	}
	defer s.handles.release(f)
	of, ok := f.file.(disk.Allocator)
	if !ok {
		return nil
	}
	switch err := of.Allocate(n); {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		return err
	}
	s.mu.Lock()
	s.allocated = n
	s.mu.Unlock()
	return nil
}

// Spare is how many bytes may still be appended where the disk keeps space.
func (s *Segment) Spare() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.allocated-s.size)
}

// giveBack lets space go that Allocate has taken and nobody will use. Holds write.
func (s *Segment) giveBack() error {
	s.mu.Lock()
	size, spare := s.size, s.allocated > s.size
	s.mu.Unlock()
	if !spare {
		return nil
	}
	return s.cutLog(size)
}
