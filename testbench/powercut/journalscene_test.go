package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
	"millrace/broker/journal"
)

// mended: the disk fails in a commit, or in a roll, and the journal goes on in a new file. Then the power is cut. The
// block that the failed write was for may hold garbage, and with it what was acknowledged before: so it must have been
// written again. The restart itself may fail too before it succeeds.
func mended(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	for i, faults := range [][]disk.Point{
		{"journal.commit"},
		{"journal.roll"},
		{"journal.commit", "journal.cut"},
		{"journal.commit", "journal.restart"},
		{"journal.roll", "journal.cut"},
		{"journal.roll", "journal.restart"},
	} {
		n, err := mend(filepath.Join(dir, fmt.Sprint(i)), seed, skip, faults)
		if cuts += n; err != nil {
			return cuts, fmt.Errorf("%s failed: %w", faults, err)
		}
	}
	return cuts, nil
}

func mend(dir string, seed uint64, skip disk.Point, faults []disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	s.fs.Spoil(filepath.Join(s.data, journalName))
	o := journalOptions(s.fs, s.data)
	o.After = func(time.Duration) <-chan time.Time { // it tries again at once
		now := make(chan time.Time, 1)
		now <- time.Time{}
		return now
	}
	j, err := journal.Open(o, journal.Mark{})
	if err != nil {
		return 0, err
	}
	if _, err := j.Replay(func(journal.Frame) error { return nil }); err != nil {
		return 0, errors.Join(err, j.Close())
	}
	if err := j.Start(); err != nil {
		return 0, errors.Join(err, j.Close())
	}
	acked, refused, err := s.outlive(j, faults)
	if err == nil && refused == 0 {
		err = errors.New("the fault met no commit")
	}
	if err == nil {
		err = s.cut(func(data string) error { return replayed(data, acked) })
	}
	if closed := j.Close(); !errors.Is(closed, disktest.ErrCut) {
		err = errors.Join(err, closed)
	}
	return s.cuts, err
}

// outlive stages groups until the faults have been met and two more are acknowledged.
func (s *scene) outlive(j *journal.Journal, faults []disk.Point) (acked [][]byte, refused int, err error) {
	stage := func(id int) error {
		v := value(uint64(id), 2500)
		done := make(chan error, 1)
		j.Stage([]journal.Entry{{Kind: journal.Append, Topic: s.topic, Base: int64(id), Length: int32(len(v)), Bytes: v}}, func(err error) { done <- err })
		err := <-done
		if err == nil {
			acked = append(acked, v)
		}
		return err
	}
	for id, after := 1, 0; after < 2; id++ {
		if id == 3 {
			for _, p := range faults {
				s.fs.FailSync(p, syscall.EIO, 1)
			}
		}
		switch err := stage(id); {
		case id > 60:
			return nil, 0, errors.New("the journal does not mend")
		case err == nil && refused > 0:
			after++
		case err != nil && !errors.Is(err, syscall.EIO):
			return nil, 0, fmt.Errorf("refused for no reason: %w", err)
		case err != nil:
			refused++
		}
	}
	return acked, refused, nil
}

// replayed says whether the journal holds what was acknowledged and nothing else.
func replayed(data string, acked [][]byte) error {
	j, err := openJournal(disk.OS{}, data, journal.Mark{})
	if err != nil {
		return err
	}
	var found [][]byte
	_, err = j.Replay(func(f journal.Frame) error {
		for _, e := range f.Entries {
			found = append(found, bytes.Clone(e.Bytes))
		}
		return nil
	})
	if err == nil && !slices.EqualFunc(found, acked, bytes.Equal) {
		err = fmt.Errorf("LOST: %d groups are there, %d were acknowledged", len(found), len(acked))
	}
	return errors.Join(err, j.Close())
}
