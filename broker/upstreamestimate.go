package broker

import (
	"math"

	"millrace/bridge/upstream"
	"millrace/bridge/upstream/contract"
)

// estimate is how long what is behind will take, by what this life of the link has carried and may carry.
func (k *line) estimate(is *upstream.Status) contract.Estimate {
	last := k.contract.Classes() - 1
	return k.foresee(is, upstream.Lag{Records: is.Records, Bytes: is.Bytes}, upstream.Lag{}, 1, last)
}

// foresee is how long a part of what is behind will take that gets a share of the link, and that some goes before. They go when
// the class may.
func (k *line) foresee(is *upstream.Status, own, ahead upstream.Lag, share float64, class int) contract.Estimate {
	now, day := k.moment(), k.budget.Last()
	if k.budget == nil {
		day = contract.Day{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	b := contract.Backlog{Behind: own.Bytes + ahead.Bytes, Speed: &k.speed, Share: share, Schedule: k.contract.Schedule(class), Day: day, Zone: k.zone}
	if is.Sent.Records > 0 { // the log may be compressed, and what is sent is not counted so
		each, records := float64(is.Sent.Bytes)/float64(is.Sent.Records), float64(own.Records+ahead.Records)
		b.Behind = int64(math.Ceil(each * records))
		if is.Records > 0 { // what comes in is like what is there
			b.Growth = each * k.growth * records / float64(is.Records)
		}
	}
	e := b.Estimate(now)
	if e.Behind = own.Bytes; own.Records > 0 { // as much as the log holds
		e.Behind = max(own.Bytes, 1)
	}
	return e
}

// classes are what is behind of each class. It is through when all is that does not come after it, with what the minimum shares
// of others leave; or sooner by its own minimum share.
func (k *line) classes(is *upstream.Status) (list []LinkClass) {
	for i, own := range is.Classes {
		rest := i == len(k.u.Classes)
		if rest && own.Records == 0 {
			continue
		}
		c := LinkClass{Records: own.Records, Bytes: own.Bytes}
		if !rest {
			c.Topics = k.u.Classes[i].Topics
		}
		ahead, left := upstream.Lag{}, 1.0
		for j, other := range is.Classes {
			switch {
			case j == i || other.Records == 0:
			case k.contract.Priority(j) <= k.contract.Priority(i):
				ahead.Records += other.Records
				ahead.Bytes += other.Bytes
			case j < len(k.u.Classes):
				left -= k.u.Classes[j].MinimumShare
			}
		}
		if own.Records == 0 {
			ahead = upstream.Lag{}
		}
		e := k.foresee(is, own, ahead, left, i)
		if !rest && own.Records > 0 && k.u.Classes[i].MinimumShare > 0 {
			if sure := k.foresee(is, own, upstream.Lag{}, k.u.Classes[i].MinimumShare, i); sure.Known && (!e.Known || sure.In < e.In) {
				e = sure
			}
		}
		if c.Told = e.String(); e.Known {
			seconds := e.In.Seconds()
			c.Estimate = &seconds
		}
		list = append(list, c)
	}
	return list
}
