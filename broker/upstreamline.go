package broker

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"millrace/bridge/upstream"
	"millrace/platform/config"
)

// line is what a link reaches its other end by, and what it may send there when.
type line struct {
	remote    upstream.Remote
	scheduler upstream.Scheduler
	backoff   upstream.Backoff
}

// errDown is why a link cannot be that goes down.
var errDown = errors.New(`direction = "down" is not in this version`)

// newLine makes that of a link.
func (l *links) newLine(u *config.Upstream) (*line, error) {
	if u.Direction != config.Up {
		return nil, errDown
	}
	if l.b.config.remote != nil {
		return &line{remote: l.b.config.remote(u)}, nil
	}
	return nil, errors.New("not yet")
}

// close gives back what the line holds. Nothing uses it any more.
func (*line) close() {}

// readable says whether others than its owner, and its owner's group, can read a file.
func readable(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().Perm()&0o004 != 0
}

// secretOf is the first line of a file. Its errors hold nothing of what is in it.
func secretOf(name string) (string, error) {
	raw, err := readFile(name)
	if err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	if first = strings.TrimRight(first, "\r"); first == "" {
		return "", fmt.Errorf("%s: its first line is empty", name)
	}
	return first, nil
}
