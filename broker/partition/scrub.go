package partition

import (
	"errors"
	"fmt"

	"millrace/broker/segment"
)

// scrub is where the slow check of the closed segments has come to. Guarded by Partition.retaining.
type scrub struct {
	base, position int64 // in the first segment at or behind base
}

// Scrub checks the next part of the closed segments again, about maxBytes of it, where the last call stopped or from the
// beginning, and tells how many bytes it looked at: 0 when it has come to the end. What has rotted is counted and logged
// before anybody asks for it, and reads step over it. The active segment is left out: its end moves.
func (p *Partition) Scrub(maxBytes int) (checked int64, err error) {
	p.retaining.Lock()
	defer p.retaining.Unlock()
	if p.gone.Load() {
		return 0, nil
	}
	p.state.Lock()
	pieces, last := p.pieces, p.durablePiece
	p.state.Unlock()
	at := &p.scrub
	for _, s := range pieces {
		if s.Base() < at.base {
			continue
		}
		if s.Base() >= last.Base() {
			break
		}
		if s.Base() > at.base {
			at.position = 0
		}
		next, err := s.Verify(at.position, maxBytes)
		var damage *segment.DamageError
		if errors.As(err, &damage) {
			p.gap(damage.Offset, damage)
			err = nil
		}
		if err != nil {
			return 0, fmt.Errorf("scrub %s: %w", p, err)
		}
		checked = next - at.position
		if *at = (scrub{s.Base(), next}); next >= s.Size() {
			*at = scrub{s.Base() + 1, 0}
		}
		return checked, nil
	}
	*at = scrub{}
	return 0, nil
}
