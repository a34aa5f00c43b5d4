package segment

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"millrace/broker/disk"
	"millrace/broker/record"
)

// Cause says why records at the start of a log went. The numbers are in the journal's entries.
type Cause uint8

// The causes. Retention is the first: it is what holds where nothing is said.
const (
	Retention Cause = 0 // retention.ms or retention.bytes
	DiskFull  Cause = 1 // the disk was at its reserve, and the topic's policy is drop-oldest
	ByClient  Cause = 2 // DeleteRecords
	Damage    Cause = 3 // recovery did not find them
	Unknown   Cause = 4 // not remembered
)

var causeNames = [...]string{"retention", "disk full", "deleted by a client", "damage", "unknown"}

// String is the cause as logs, files and gap records name it.
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return causeNames[Unknown]
}

// CauseStart says from which offset on a cause holds, up to the next one's.
type CauseStart struct {
	Start int64
	Cause Cause
}

// CausesName is the file in a partition's directory that says why the start of the log is where it is. Ours, not Kafka's.
const CausesName = "log-start-causes"

// causesMax bounds what is read of it, in bytes.
const causesMax = 4 << 10

var (
	syncCauses    = disk.NewPoint("segment.causes")
	syncCausesDir = disk.NewPoint("segment.causes.dir")
)

// WriteCauses durably replaces the file of causes: a version, the number of lines, "start cause" a line, and a CRC32C of
// all that.
func WriteCauses(fs disk.FS, dir string, causes []CauseStart) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "0\n%d\n", len(causes))
	for _, c := range causes {
		fmt.Fprintf(&b, "%d %s\n", c.Start, c.Cause)
	}
	return replaceFile(fs, dir, CausesName, sumCauses(b.Bytes()), syncCauses, syncCausesDir)
}

func sumCauses(text []byte) []byte {
	return fmt.Appendf(text, "checksum %08x\n", record.Castagnoli(text))
}

// ReadCauses reads the file of causes, starts rising. It returns ErrCheckpoint when the file is not one, and
// os.ErrNotExist when there is none.
func ReadCauses(fs disk.FS, dir string) ([]CauseStart, error) {
	path := filepath.Join(dir, CausesName)
	p, err := readFile(fs, path, causesMax)
	if err != nil {
		return nil, err
	}
	bad := fmt.Errorf("%s: %w", path, ErrCheckpoint)
	at := bytes.LastIndex(p, []byte("checksum "))
	if at < 0 || !bytes.Equal(sumCauses(bytes.Clone(p[:at])), p) {
		return nil, bad
	}
	lines := strings.Split(strings.TrimSuffix(string(p[:at]), "\n"), "\n")
	if len(lines) < 2 || lines[0] != "0" || lines[1] != strconv.Itoa(len(lines)-2) {
		return nil, bad
	}
	causes := make([]CauseStart, 0, len(lines)-2)
	for _, line := range lines[2:] {
		start, name, _ := strings.Cut(line, " ")
		o, err := strconv.ParseInt(start, 10, 64)
		cause := slices.Index(causeNames[:], name)
		if n := len(causes); err != nil || o < 0 || cause < 0 || n > 0 && causes[n-1].Start >= o {
			return nil, fmt.Errorf("%w: %q", bad, line)
		}
		causes = append(causes, CauseStart{Start: o, Cause: Cause(cause)})
	}
	return causes, nil
}
