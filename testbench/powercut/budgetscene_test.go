package powercut

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"millrace/bridge/upstream/contract"
	"millrace/broker/disk"
	"millrace/broker/disk/disktest"
)

// nowhere takes all that is sent.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// metered: a link sent a part of what it may send in a day. After a cut it knows of every byte, and of no more than a hundredth
// beside it for the cut and one for a torn slot.
func metered(dir string, seed uint64, skip disk.Point) (cuts int, err error) {
	s, err := newScene(dir, seed, skip)
	if err != nil {
		return 0, err
	}
	config := contract.BudgetConfig{
		FS: s.fs, Path: filepath.Join(s.data, "hq.day"), Limit: 10 << 20,
		Now: func() contract.Moment { return contract.Moment{Time: s.now(), Known: true} },
	}
	budget, damage, err := contract.OpenBudget(config)
	if err := errors.Join(damage, err); err != nil {
		return 0, err
	}
	meter, err := contract.NewMeter(0, budget)
	if err != nil {
		return 0, err
	}
	step := int(config.Limit / 100)
	if _, err := meter.Conn(nowhere{}).Write(make([]byte, step/2+s.rng.IntN(4*step))); err != nil {
		return 0, err
	}
	err = s.cut(func(data string) error {
		after := config
		after.FS, after.Path = disk.OS{}, filepath.Join(data, "hq.day")
		budget, damage, err := contract.OpenBudget(after)
		if err != nil {
			return err
		}
		used := budget.Day().Used
		if damage != nil || used < meter.Sent() || used > meter.Sent()+2*int64(step) {
			damage = errors.Join(fmt.Errorf("LOST: the bytes of the day: %d were sent, and %d are counted", meter.Sent(), used), damage)
		}
		return errors.Join(damage, budget.Close())
	})
	if closed := budget.Close(); !errors.Is(closed, disktest.ErrCut) {
		err = errors.Join(err, closed)
	}
	return s.cuts, err
}
