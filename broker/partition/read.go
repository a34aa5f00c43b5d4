package partition

import (
	"errors"
	"fmt"
	"slices"

	"millrace/broker/record"
	"millrace/broker/segment"
)

// Read is a span of whole checked batches from the one that holds offset on, at most maxBytes of them but one at least.
// Nothing at or above the high watermark is ever in it; at the high watermark it is empty. It ends with its segment at
// the latest. The caller releases it. Damage is stepped over: the span then begins behind it, and the gap is counted
// and logged. Errors: ErrOffsetOutOfRange, ErrDeleted, and the disk's.
func (p *Partition) Read(offset int64, maxBytes int) (segment.Span, error) {
	for {
		span, again, err := p.read(offset, maxBytes)
		if err == nil || !again {
			return span, err
		}
	}
}

// read is one try. again is true when the log changed under it: the offset has to be looked at anew.
func (p *Partition) read(offset int64, maxBytes int) (span segment.Span, again bool, err error) {
	if p.gone.Load() {
		return segment.Span{}, false, fmt.Errorf("read %s: %w", p, ErrDeleted)
	}
	p.state.Lock()
	pieces, start, high := p.pieces, p.start, p.high
	durable, durablePiece, durablePos := p.durable, p.durablePiece, p.durablePos
	p.state.Unlock()
	if offset < start || offset > p.end.Load() {
		return segment.Span{}, false, fmt.Errorf("read %s at %d, log is %d to %d: %w", p, offset, start, high, ErrOffsetOutOfRange)
	}
	for i := floor(pieces, offset); i < len(pieces) && offset < high; {
		s := pieces[i]
		if s.Base() >= high {
			break
		}
		end := durablePos
		if s != durablePiece || high != durable {
			end, err = limit(pieces, i, high)
		}
		if err == nil {
			span, err = s.Read(offset, end, maxBytes)
		}
		var damage *segment.DamageError
		switch {
		case errors.As(err, &damage):
			p.gap(offset, damage)
			err = nil
			if damage.NextOffset < 0 {
				i++ // the rest of this segment
				continue
			}
			offset = max(offset+1, damage.NextOffset)
		case err != nil && p.gone.Load():
			return segment.Span{}, false, fmt.Errorf("read %s: %w", p, ErrDeleted)
		case err != nil:
			return segment.Span{}, p.moved(pieces), fmt.Errorf("read %s at %d: %w", p, offset, err)
		case span.Len() > 0:
			return span, false, nil
		default:
			if i++; i < len(pieces) && pieces[i].Base() > offset && !p.config.Load().CleanupCompact {
				// The segment ends too early, and what is left of it is whole.
				p.gap(offset, &segment.DamageError{
					Path: s.Path(), Position: s.Size(), Next: s.Size(), Offset: offset, NextOffset: pieces[i].Base(), Reason: errCutShort,
				})
			}
		}
	}
	return segment.Span{}, false, nil
}

// skipPieces is how many segments one Skip looks at.
const skipPieces = 64

// Skip is the first offset at or after the given one, and at most the high watermark, that may have something wanted: no
// record between the two has a wanted topic. Where the topic indexes do not tell it is the given offset. more says that it
// was looked no further for the time it takes: the next call goes on. An offset that cannot be read comes back as it is.
func (p *Partition) Skip(offset int64, w *segment.Wanted) (next int64, more bool) {
	p.state.Lock()
	pieces, start, high := p.pieces, p.start, p.high
	p.state.Unlock()
	if p.gone.Load() || offset < start || offset >= high {
		return offset, false
	}
	from := floor(pieces, offset)
	for i := from; i < len(pieces); i++ {
		if i == from+skipPieces {
			return offset, true
		}
		if offset, more = pieces[i].Skip(offset, w); offset >= high {
			return high, false
		}
		if more || i+1 == len(pieces) || offset < pieces[i+1].Base() {
			break
		}
	}
	return offset, more
}

// errCutShort is why offsets before the next segment are gone.
var errCutShort = errors.New("the segment ends before the next one begins")

// moved says whether the segments are others than they were: a read that failed may have met one being removed or compacted.
func (p *Partition) moved(pieces []*piece) bool {
	p.state.Lock()
	defer p.state.Unlock()
	return !slices.Equal(pieces, p.pieces)
}

// gap counts and names a stretch that cannot be served: once, however often it is met in a row.
func (p *Partition) gap(offset int64, d *segment.DamageError) {
	if p.damagedAt.Swap(d.Position) == d.Position {
		return
	}
	p.gaps.Add(1)
	p.store.log.Error("damaged records are skipped", "partition", p.String(),
		"offset", max(d.Offset, offset), "next", d.NextOffset, "file", d.Path, "position", d.Position, "reason", d.Reason)
}

// firstOffset is the base offset of a span's first batch.
func firstOffset(span segment.Span) (int64, error) {
	raw, err := span.Append(nil)
	if err != nil {
		return 0, err
	}
	b, _, err := record.Next(raw)
	if err != nil {
		return 0, err
	}
	return b.BaseOffset(), nil
}

// firstIn is the first record of whole batches that is at start or later and not before ms, -1 when there is none, and
// the offset after the last batch.
func firstIn(batches []byte, start, ms int64) (next, offset, ts int64, err error) {
	for rest := batches; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return 0, -1, -1, err
		}
		next, rest = b.NextOffset(), after
		if b.MaxTimestamp() < ms {
			continue
		}
		for r, err := range b.Stamps(record.DefaultMaxBytes) {
			if err != nil {
				return 0, -1, -1, err
			}
			if r.Offset >= start && r.Timestamp >= ms {
				return next, r.Offset, r.Timestamp, nil
			}
		}
	}
	return next, -1, -1, nil
}
