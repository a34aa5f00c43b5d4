package powercut

import (
	"fmt"
	"time"

	"millrace/broker/boot"
	"millrace/broker/disk"
)

// timed: a board that starts in 1970 stamped records, learned the time, and said so; and then its clock was set once more.
func timed(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	wall, ran, end := time.Unix(5, 0), time.Duration(0), int64(0)
	at := boot.Place{Topic: s.topic}
	config := boot.Config{
		FS: s.fs, Dir: s.data, Build: s.now().Add(-30 * 24 * time.Hour),
		Wall: func() time.Time { return wall }, Elapsed: func() time.Duration { return ran },
	}
	clock := boot.Open(config, boot.Reading{})
	ends := func() []boot.Range { return []boot.Range{{Place: at, End: end}} }
	if err := clock.Begin(ends); err != nil {
		return 0, err
	}
	stamp := clock.Now().UnixMilli()
	end += sceneRecords
	ran += time.Hour
	wall = s.now()
	if err := clock.Observe(boot.Reading{Source: boot.NTP}); err != nil {
		return 0, err
	}
	want := s.now().Add(-time.Hour).UnixMilli()
	look := func(data string) error {
		after := config
		after.FS, after.Dir = disk.OS{}, data
		clock := boot.Open(after, boot.Reading{})
		if err := clock.Begin(ends); err != nil {
			return err
		}
		if got, unsure := clock.View().Export(at, sceneRecords-1, stamp); got != want || unsure {
			return fmt.Errorf("LOST: what the time was: a record of %v leaves as %v, unsure %v", time.UnixMilli(want).UTC(), time.UnixMilli(got).UTC(), unsure)
		}
		return nil
	}
	for range s.rng.IntN(3) { // both files are written over
		ran += 20 * time.Minute
		wall = wall.Add(20 * time.Minute)
		if err := clock.Save(); err != nil {
			return 0, err
		}
	}
	err = s.cut(look)
	return s.cuts, err
}
