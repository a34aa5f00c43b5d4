package upstream

import "fmt"

// Verdict says whether a partition may be sent, as its cursor and the log compare.
type Verdict int

const (
	// Go says that nothing is against it.
	Go Verdict = iota
	// LocalAnew: the local topic is another one of the same name.
	LocalAnew
	// UpstreamAnew: the topic upstream is another one of the same name.
	UpstreamAnew
	// LocalShort: the local log ends before what was delivered.
	LocalShort
	// LocalOther: the last record that was delivered is not the one the log has there.
	LocalOther
	// UpstreamShort: what a down link has taken is beyond the end of the partition upstream, or was replaced there.
	UpstreamShort
	// UpstreamOther: the last record that a down link has taken is not the one there is upstream.
	UpstreamOther
	// Refused: the peer will not have the next records. They are tried again now and then.
	Refused
	// Unreadable: the log cannot be read there. It is tried again now and then.
	Unreadable
)

var verdictNames = [...]string{
	Go: "go", LocalAnew: "local topic made anew", UpstreamAnew: "upstream topic made anew", LocalShort: "local log too short",
	LocalOther:    "not the record that was delivered",
	UpstreamShort: "upstream log too short", UpstreamOther: "not the record that was taken", Refused: "refused", Unreadable: "unreadable",
}

// String is a few words.
func (v Verdict) String() string {
	if v < 0 || int(v) >= len(verdictNames) {
		return fmt.Sprintf("verdict %d", int(v))
	}
	return verdictNames[v]
}

// Stopped says that only Resolve, or the right disk, makes the partition go on.
func (v Verdict) Stopped() bool { return v >= LocalAnew && v <= UpstreamOther }

// Facts are what a cursor is judged by.
type Facts struct {
	Local, Upstream [16]byte // ids now; a zero one is not known
	Start, High     int64    // of the local log
	// Found says that the record at Cursor.Last is there, and CRC is its sum.
	Found bool
	CRC   uint32
}

// Judge compares a cursor with what there is. reason is for a person.
func Judge(c *Cursor, f Facts) (v Verdict, reason string) {
	var none [16]byte
	switch {
	case c.Local != f.Local:
		return LocalAnew, "the local topic was made anew since its records were delivered"
	case c.UpstreamID != f.Upstream && c.UpstreamID != none && f.Upstream != none:
		return UpstreamAnew, "the upstream topic " + c.Upstream + " was made anew since records were delivered to it"
	case f.High < c.Next:
		return LocalShort, fmt.Sprintf("the local log ends at offset %d, before %d, up to which it was delivered: an older disk?", f.High, c.Next)
	case f.Found && f.CRC != c.CRC:
		return LocalOther, fmt.Sprintf("the record at offset %d is not the one that was delivered: another disk, or a copy of the board?", c.Last)
	}
	return Go, ""
}
