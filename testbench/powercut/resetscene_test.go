package powercut

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

// reset: a board was made new. In every other world the power goes while that is done, and the disk has the whole old board
// or the word that it is to go; in the others a start came up on it, and what that acknowledges the next must not remove.
func reset(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	m, err := broker.Format(s.fs, s.data, "", 1)
	if err != nil {
		return 0, err
	}
	old := []string{"checkpoint.0", "checkpoint.1", "quorum", "topics"}
	for _, name := range old {
		f, err := s.fs.OpenFile(filepath.Join(s.data, name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return 0, err
		}
		if err := f.Close(); err != nil {
			return 0, err
		}
	}
	if err := s.fs.SyncDir(s.data, "meta.directory"); err != nil {
		return 0, err
	}
	marked := func(data string) bool {
		_, err := os.Stat(filepath.Join(data, "factory-reset"))
		return !errors.Is(err, fs.ErrNotExist)
	}
	if seed%2 == 1 {
		s.fs.StopAt(1 + s.rng.Int64N(12))
		_, err := broker.FactoryReset(s.fs, s.data, false)
		if err != nil && !errors.Is(err, disktest.ErrCut) {
			return 0, err
		}
		done := err == nil
		err = s.cut(func(data string) error {
			if marked(data) {
				return nil
			}
			if done {
				return errors.New("LOST: the reset")
			}
			for _, name := range old {
				if _, err := os.Stat(filepath.Join(data, name)); err != nil {
					return fmt.Errorf("LOST: a part of the board that was not reset: %w", err)
				}
			}
			if found, err := broker.ReadMeta(disk.OS{}, data); err != nil || found != m {
				return fmt.Errorf("LOST: who the board was: %w", err)
			}
			return nil
		})
		return s.cuts, err
	}
	if _, err := broker.FactoryReset(s.fs, s.data, false); err != nil {
		return 0, err
	}
	b, err := broker.Open(context.Background(), broker.Config{Settings: alone(s.data), FS: s.fs, Now: s.now})
	if err != nil {
		return 0, err
	}
	err = s.cut(func(data string) error {
		if marked(data) {
			return errors.New("LOST: the next start removes what this one has acknowledged")
		}
		return nil
	})
	if closed := b.Close(); !errors.Is(closed, disktest.ErrCut) {
		err = errors.Join(err, closed)
	}
	return s.cuts, err
}
