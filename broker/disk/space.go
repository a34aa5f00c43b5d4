package disk

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrFull is returned by Space.Admit when what is asked for would eat into the reserve.
var ErrFull = errors.New("disk space is down to the reserve")

// SpaceConfig says what a Space watches.
type SpaceConfig struct {
	FS   FS
	Path string
	// Reserve is what clients may not touch, in bytes.
	Reserve int64
	// Floor is what not even internal writes may touch, in bytes. Floor <= Reserve.
	Floor int64
	// RefreshBytes is how many admitted bytes may pass before the filesystem is asked again. 0 means 1 MiB.
	RefreshBytes int64
	// RefreshMS is how old an answer may grow, in milliseconds. 0 means 1,000.
	RefreshMS int64
}

// MinReserve is the smallest reserve that lets a full board free itself: two journals' worth of checkpoint work and
// 16 MiB for deletes, start moves, offsets and the canary.
func MinReserve(journalBytesMax int64) int64 { return 2*journalBytesMax + 16<<20 }

// Space keeps the last part of a filesystem for the writes that free it. It asks the filesystem seldom and counts in
// between what it has admitted, so that it errs on the side of too little free space, never too much. Admitted bytes
// that were never written come back at the next question. Safe for concurrent use.
type Space struct {
	cfg SpaceConfig

	// free is the last answer less what was admitted since.
	free     atomic.Int64
	admitted atomic.Int64 // since the last answer
	askedMS  atomic.Int64 // when the last answer came
	asking   atomic.Bool  // one question at a time; the others go by the old answer
	failed   atomic.Bool  // the last question had no answer
}

// NewSpace asks the filesystem once, so that a path which cannot be watched is known at the start.
func NewSpace(cfg SpaceConfig) (*Space, error) {
	if cfg.Floor > cfg.Reserve {
		return nil, fmt.Errorf("disk floor of %d bytes is above the reserve of %d", cfg.Floor, cfg.Reserve)
	}
	if cfg.RefreshBytes <= 0 {
		cfg.RefreshBytes = 1 << 20
	}
	if cfg.RefreshMS <= 0 {
		cfg.RefreshMS = 1000
	}
	s := &Space{cfg: cfg}
	u, err := cfg.FS.Usage(cfg.Path)
	if err != nil {
		return nil, err
	}
	s.free.Store(u.Free)
	return s, nil
}

// Admit takes n bytes off the free space, or returns ErrFull: for a client when that would cut into the reserve, for
// an internal write when it would cut into the floor. nowMS decides only whether to ask the filesystem again.
func (s *Space) Admit(n int64, internal bool, nowMS int64) error {
	keep := s.cfg.Reserve
	if internal {
		keep = s.cfg.Floor
	}
	age := nowMS - s.askedMS.Load()
	if age < 0 || age >= s.cfg.RefreshMS || s.admitted.Load() >= s.cfg.RefreshBytes {
		s.Refresh(nowMS)
	}
	if left := s.free.Add(-n); left < keep {
		s.free.Add(n)
		return fmt.Errorf("%d bytes free, %d kept back: %w", left+n, keep, ErrFull)
	}
	s.admitted.Add(n)
	return nil
}

// Refresh asks the filesystem now: after files were removed, or by a timer. Where it does not answer, the old answer
// less what was admitted stands.
func (s *Space) Refresh(nowMS int64) {
	if !s.asking.CompareAndSwap(false, true) {
		return
	}
	defer s.asking.Store(false)
	s.askedMS.Store(nowMS)
	u, err := s.cfg.FS.Usage(s.cfg.Path)
	s.failed.Store(err != nil)
	if err == nil {
		s.admitted.Store(0)
		s.free.Store(u.Free)
	}
}

// Free is the free space as last known, in bytes.
func (s *Space) Free() int64 { return s.free.Load() }

// Reserve is the configured reserve, in bytes.
func (s *Space) Reserve() int64 { return s.cfg.Reserve }

// Low says whether clients are being refused, or would be by the next full-sized write of n bytes.
func (s *Space) Low(n int64) bool { return s.free.Load()-n < s.cfg.Reserve }

// Room says whether n more bytes leave the floor, which internal writes may not touch either.
func (s *Space) Room(n int64) bool { return s.free.Load()-n >= s.cfg.Floor }

// Blind says whether the filesystem did not answer when it was last asked.
func (s *Space) Blind() bool { return s.failed.Load() }
