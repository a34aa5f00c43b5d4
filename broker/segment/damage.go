package segment

import (
	"errors"
	"fmt"
)

// ErrDamaged is what a DamageError is, for errors.Is.
var ErrDamaged = errors.New("segment is damaged")

// DamageError says which part of a log cannot be served, and where to go on.
type DamageError struct {
	// Path is the log file.
	Path string
	// Position and Next are the bytes that are no good, Next exclusive.
	Position, Next int64
	// Offset is the first offset lost, NextOffset the first one that is there again at Next. NextOffset is -1 when
	// no valid batch follows below the limit: what is lost then ends where the caller's limit does.
	Offset, NextOffset int64
	// Reason is what was wrong with the first bad batch.
	Reason error
}

func (e *DamageError) Error() string {
	to := "the end"
	if e.NextOffset >= 0 {
		to = fmt.Sprint("offset ", e.NextOffset)
	}
	return fmt.Sprintf("%s: damaged from byte %d, offset %d, to byte %d, %s: %v", e.Path, e.Position, e.Offset, e.Next, to, e.Reason)
}

// Unwrap makes errors.Is find ErrDamaged and the reason.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Reason} }
