package partition

import (
	"errors"
	"fmt"

	"millrace/broker/segment"
)

// The times that ListOffset gives a meaning of their own, Kafka's ListOffsetsRequest.
const (
	LatestTime   = -1 // the high watermark
	EarliestTime = -2 // the first readable offset
	MaxTime      = -3 // the record with the largest timestamp
)

// ListOffset is the first readable offset whose timestamp is at least ms, with that timestamp and the leader epoch it
// was written in; or what LatestTime, EarliestTime and MaxTime ask for. offset is -1 when there is no such record,
// ts -1 where it has no meaning, epoch -1 where it is not known.
func (p *Partition) ListOffset(ms int64) (offset, ts int64, epoch int32, err error) {
	for {
		p.state.Lock()
		pieces := p.pieces
		p.state.Unlock()
		offset, ts, epoch, err = p.listOffset(pieces, ms)
		if err == nil || p.gone.Load() || !p.moved(pieces) {
			return offset, ts, epoch, err
		}
	}
}

func (p *Partition) listOffset(pieces []*piece, ms int64) (offset, ts int64, epoch int32, err error) {
	if p.gone.Load() {
		return -1, -1, -1, fmt.Errorf("list offset of %s: %w", p, ErrDeleted)
	}
	p.state.Lock()
	start, high := p.start, p.high
	p.state.Unlock()
	switch ms {
	case LatestTime:
		return high, -1, p.Epoch(), nil
	case EarliestTime:
		return start, -1, p.epochOf(start), nil
	case MaxTime:
		offset, ts, err = p.latestByTime(pieces, start, high)
	default:
		offset, ts, err = p.firstByTime(pieces, start, high, ms)
	}
	if err != nil || offset < 0 {
		return -1, -1, -1, err
	}
	return offset, ts, p.epochOf(offset), nil
}

func (p *Partition) epochOf(offset int64) int32 {
	epoch, _ := p.epochs.at(offset)
	return epoch
}

// limit is how far into piece i records below high lie, in bytes.
func limit(pieces []*piece, i int, high int64) (int64, error) {
	if i+1 < len(pieces) && pieces[i+1].Base() <= high {
		return pieces[i].Size(), nil
	}
	end, err := pieces[i].Position(high)
	var damage *segment.DamageError
	if errors.As(err, &damage) { // nothing before it is past high, and what it covers is not served
		return damage.Position, nil
	}
	return end, err
}

// firstByTime looks for the first record from ms on, segment by segment.
func (p *Partition) firstByTime(pieces []*piece, start, high, ms int64) (offset, ts int64, err error) {
	for i, s := range pieces {
		if s.Base() >= high {
			break
		}
		if i+1 < len(pieces) && pieces[i+1].Base() <= start {
			continue
		}
		end, err := limit(pieces, i, high)
		if err != nil {
			return -1, -1, err
		}
		offset, ts, ok, err := s.OffsetForTime(ms, end)
		if err != nil {
			return -1, -1, fmt.Errorf("list offset of %s: %w", p, err)
		}
		if ok && offset >= high {
			break
		}
		if ok && offset >= start {
			return offset, ts, nil
		}
		if ok { // the index found one that DeleteRecords has taken: look from the start on
			offset, ts, err := p.scanByTime(s, start, high, ms)
			if err != nil || offset >= 0 {
				return offset, ts, err
			}
		}
	}
	return -1, -1, nil
}

// scanByTime looks record by record, from the start of the log on.
func (p *Partition) scanByTime(s *piece, start, high, ms int64) (offset, ts int64, err error) {
	var buf []byte
	for at := start; at < high; {
		var span segment.Span
		if span, err = p.Read(at, 64<<10); err != nil || span.Len() == 0 {
			return -1, -1, err
		}
		buf, err = span.Append(buf[:0])
		span.Release()
		if err != nil {
			return -1, -1, err
		}
		next, offset, ts, err := firstIn(buf, start, ms)
		if err != nil || offset >= 0 {
			return offset, ts, err
		}
		if at = next; at >= s.Base()+1<<31 {
			break
		}
	}
	return -1, -1, nil
}

// latestByTime is the readable record with the largest timestamp, the first of several.
func (p *Partition) latestByTime(pieces []*piece, start, high int64) (offset, ts int64, err error) {
	offset, ts = -1, -1
	for i, s := range pieces {
		if s.Base() >= high {
			break
		}
		if i+1 < len(pieces) && pieces[i+1].Base() <= start {
			continue
		}
		most, at, err := s.MaxTimestamp()
		if err != nil {
			return -1, -1, fmt.Errorf("list offset of %s: %w", p, err)
		}
		if most > ts && at >= start && at < high {
			offset, ts = at, most
		}
	}
	return offset, ts, nil
}
