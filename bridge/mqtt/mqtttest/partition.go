package mqtttest

import (
	"slices"

	"millrace/bridge/mqtt"
	"millrace/broker/record"
	"millrace/broker/segment"
)

func (p *partition) Topic() string { return p.topic }
func (p *partition) ID() [16]byte  { return p.id }
func (p *partition) Index() int32  { return p.index }

func (p *partition) Start() int64 {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.start
}

func (p *partition) High() int64 {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.high
}

func (p *partition) AppendRecords(recs []record.Record, _ bool, done func(int64, error)) {
	p.log.AppendTogether([]mqtt.Part{{Partition: p, Records: recs, Done: done}})
}

// AppendTogether implements mqtt.Log.
func (l *Log) AppendTogether(parts []mqtt.Part) {
	type part struct {
		p     *partition
		batch record.Batch
		done  func(int64, error)
	}
	l.mu.Lock()
	lose := l.lose
	l.mu.Unlock()
	all := make([]part, len(parts))
	refuse := func(err error) {
		for _, part := range parts {
			part.Done(0, err)
		}
	}
	for i, from := range parts {
		all[i] = part{p: from.Partition.(*partition), done: from.Done}
		b := record.NewBuilder(record.None)
		for _, r := range from.Records {
			if lose == nil || !lose(all[i].p.topic, r) {
				b.Add(r.Timestamp, r.Key, r.Value, r.Headers)
			}
		}
		if b.Count() == 0 {
			continue // all of it is lost
		}
		batch, err := b.Build()
		if err != nil {
			refuse(err)
			return
		}
		all[i].batch = slices.Clone(batch)
	}
	step := func() {
		l.mu.Lock()
		err := l.err
		for _, part := range all {
			if part.p.gone && err == nil {
				err = mqtt.ErrGone
			}
		}
		if err != nil {
			l.mu.Unlock()
			refuse(err)
			return
		}
		bases := make([]int64, len(all))
		var c commit
		for i, part := range all {
			p := part.p
			if bases[i] = p.high; part.batch == nil {
				continue
			}
			part.batch.Stamp(p.high, 0)
			p.batches = append(p.batches, part.batch)
			p.high = part.batch.NextOffset()
			c.batches = append(c.batches, landed{p.topic, p.index, part.batch})
		}
		l.history = append(l.history, c)
		l.mu.Unlock()
		for i, part := range all {
			part.done(bases[i], nil)
			l.tell(part.p)
		}
	}
	l.mu.Lock()
	if l.stop > 0 && len(l.history) >= l.stop {
		l.hold, l.stop = true, 0
	}
	if l.hold {
		l.held = append(l.held, step)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	step()
}

func (p *partition) ReadBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	dst, err := p.readBatches(dst, offset, maxBytes)
	if fn := p.log.afterRead(); fn != nil {
		fn(p.topic, offset)
	}
	return dst, err
}

// Skip implements mqtt.Partition: it passes by batches that have nothing wanted, one in a call.
func (p *partition) Skip(offset int64, w *segment.Wanted) (next int64, more bool) {
	next, more = p.skip(offset, w)
	if fn := p.log.afterRead(); fn != nil && more {
		fn(p.topic, offset)
	}
	return next, more
}

func (p *partition) skip(offset int64, w *segment.Wanted) (next int64, more bool) {
	l := p.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.gone || offset < p.start {
		return offset, false
	}
	for _, b := range p.batches {
		switch {
		case b.NextOffset() <= offset:
		case b.BaseOffset() > offset || w.In(b):
			return offset, false
		default:
			return b.NextOffset(), true
		}
	}
	return offset, false
}

func (p *partition) readBatches(dst []byte, offset int64, maxBytes int) ([]byte, error) {
	l := p.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case p.gone:
		return dst, mqtt.ErrGone
	case offset < p.start || offset > p.high:
		return dst, mqtt.ErrOutOfRange
	case l.readErr != nil:
		return dst, l.readErr
	}
	start := len(dst)
	for _, b := range p.batches {
		if b.NextOffset() <= offset {
			continue
		}
		if len(dst) > start && len(dst)-start+len(b) > maxBytes {
			break
		}
		dst = append(dst, b...)
	}
	l.reads += int64(len(dst) - start)
	return dst, nil
}
