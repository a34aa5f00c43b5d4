package contract

import (
	_ "embed" // the rules of the time zones
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// rules are the time zones' rules from 2026 on, the public tz database's, one line for all zones that share them:
//
//	POSIX-rule [unix-time/offset/abbreviation...] zone...
//
// The POSIX rule holds after the last of the changes that are listed, of which most zones have none. Windows and days look
// only ahead, and no clock is believed that is before the build, so what was before 2026 is left out: 598 zones are 20 KB,
// where the whole database (time/tzdata) is 408. TestZones holds the file against the toolchain's database; with -update it
// writes the file anew.
//
//go:embed zones.txt
var rules string

// rulesFrom is where the listed rules begin: 2026-01-01T00:00:00Z.
const rulesFrom = 1767225600

// Zone is a time zone by its name, as in "Europe/Berlin"; "" and "UTC" are UTC. What the system has comes first, since it can
// be brought up to date without a new program; where the system has no such zone, as on a board's image, the rules inside the
// program do. "Local" is refused: a board's own zone is not what its configuration says.
func Zone(name string) (*time.Location, error) {
	switch name {
	case "", "UTC":
		return time.UTC, nil
	case "Local":
		return nil, errors.New(`time zone "Local" is not a place; name one like "Europe/Berlin"`)
	}
	if zone, err := time.LoadLocation(name); err == nil {
		return zone, nil
	}
	return ownZone(name)
}

// ownZone is a zone by the rules inside the program.
func ownZone(name string) (*time.Location, error) {
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		rule, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !strings.Contains(rest, name) {
			continue
		}
		var changes []string
		for field := range strings.FieldsSeq(rest) {
			switch {
			case field[0] >= '0' && field[0] <= '9':
				changes = append(changes, field)
			case field == name:
				return fromRule(name, rule, changes)
			}
		}
	}
	return nil, fmt.Errorf("there is no time zone %q; names are like \"Europe/Berlin\" or \"UTC\"", name)
}

// fromRule puts the rules in the one form that the time package takes: a file of the tz database (RFC 9636).
func fromRule(name, rule string, changes []string) (*time.Location, error) {
	std, offset, err := standard(rule)
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	var times, kinds, zones []byte
	names := std + "\x00"
	zones = append(binary.BigEndian.AppendUint32(zones, uint32(offset)), 0, 0)
	for _, change := range changes {
		at, rest, _ := strings.Cut(change, "/")
		seconds, abbreviation, _ := strings.Cut(rest, "/")
		when, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("time zone %s: %w", name, err)
		}
		offset, err := strconv.ParseInt(seconds, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("time zone %s: %w", name, err)
		}
		place := strings.Index(names, abbreviation+"\x00")
		if place < 0 {
			place, names = len(names), names+abbreviation+"\x00"
		}
		zone := append(binary.BigEndian.AppendUint32(nil, uint32(offset)), 0, byte(place))
		kind := 0
		for kind < len(zones)/6 && string(zones[kind*6:kind*6+6]) != string(zone) {
			kind++
		}
		if kind == len(zones)/6 {
			zones = append(zones, zone...)
		}
		times, kinds = binary.BigEndian.AppendUint64(times, uint64(when)), append(kinds, byte(kind))
	}
	header := append([]byte("TZif2"), make([]byte, 15)...)
	file := append(append([]byte{}, header...), make([]byte, 6*4)...) // the old form of 32 bits, empty
	file = append(file, header...)
	for _, n := range []int{0, 0, 0, len(kinds), len(zones) / 6, len(names)} {
		file = binary.BigEndian.AppendUint32(file, uint32(n))
	}
	for _, part := range [][]byte{times, kinds, zones, []byte(names), []byte("\n" + rule + "\n")} {
		file = append(file, part...)
	}
	return time.LoadLocationFromTZData(name, file)
}

// standard is the name and the offset of standard time, seconds east of UTC, that a POSIX rule begins with: "CET-1CEST,...".
func standard(rule string) (name string, offset int, err error) {
	rest := rule
	if strings.HasPrefix(rule, "<") {
		name, rest, _ = strings.Cut(rule[1:], ">")
	} else {
		n := strings.IndexAny(rule, "+-0123456789")
		if n < 0 {
			return "", 0, fmt.Errorf("rule %q has no offset", rule)
		}
		name, rest = rule[:n], rule[n:]
	}
	sign := -1 // POSIX counts west of UTC
	switch {
	case strings.HasPrefix(rest, "-"):
		sign, rest = 1, rest[1:]
	case strings.HasPrefix(rest, "+"):
		rest = rest[1:]
	}
	if n := strings.IndexFunc(rest, func(r rune) bool { return r != ':' && (r < '0' || r > '9') }); n >= 0 {
		rest = rest[:n]
	}
	unit := 3600
	for part := range strings.SplitSeq(rest, ":") {
		n, err := strconv.Atoi(part)
		if err != nil || unit == 0 {
			return "", 0, fmt.Errorf("rule %q has no offset", rule)
		}
		offset += n * unit
		unit /= 60
	}
	return name, sign * offset, nil
}
