package partition

import "time"

// Clock is the time as partitions need it. *boot.Clock is the real one, of a board whose clock may be wrong. Ages are ms
// since 1970 that only run, whatever happens to stamps: retention, idle producers and intervals go by them.
// platform/adr/0019-the-time-of-a-board.md has both.
type Clock interface {
	// Now is what stamps carry.
	Now() time.Time
	// AgeMS is the time as an age.
	AgeMS() int64
	// FileAge is the age at which a file was written whose last record has that offset, by the date it bears, ms.
	FileAge(topic [16]byte, partition int32, offset, dateMS int64) int64
	// Date is the date for a file of that age.
	Date(ageMS int64) time.Time
}

// believer is the Clock of a board whose clock is always right.
type believer struct{ now func() time.Time }

func (b believer) Now() time.Time { return b.now() }

func (b believer) AgeMS() int64 { return b.now().UnixMilli() }

func (believer) FileAge(_ [16]byte, _ int32, _, dateMS int64) int64 { return dateMS }

func (believer) Date(ageMS int64) time.Time { return time.UnixMilli(ageMS) }

// nowMS is the time as an age.
func (s *Store) nowMS() int64 { return s.cfg.Clock.AgeMS() }

// stampMS is the time for stamps.
func (s *Store) stampMS() int64 { return s.cfg.Clock.Now().UnixMilli() }
