package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// linkPatience is how long the servers of one link may take to be found and to answer, all together.
const linkPatience = 5 * time.Second

// Link is a link to another cluster, as the configuration has it.
type Link struct {
	Name    string
	Servers []string // host:port
	// TLS says that certificates are judged by the clock; Metered that bytes cost money, so that nobody is called.
	TLS, Metered bool
	// Files are those it needs, Secrets those of them that others must not read.
	Files, Secrets []string
}

// links looks at what the links need: names, servers that answer, files, the time. A link that is away is no fault of the
// board's; what keeps it away for good often is.
func (b *Board) links(say func(State, string, string)) {
	for i := range b.Links {
		l, well := &b.Links[i], true
		warn := func(change, format string, args ...any) {
			well = false
			say(Warn, "link "+l.Name+": "+fmt.Sprintf(format, args...), change)
		}
		for _, name := range l.Files {
			at := name
			if filepath.IsAbs(name) {
				at = b.path(name)
			}
			info, err := os.Stat(at)
			switch {
			case err != nil:
				warn("put the file there, or change the name in the configuration", "a file it needs cannot be used: %v", err)
			case slices.Contains(l.Secrets, name) && info.Mode().Perm()&0o004 != 0:
				warn("chmod 600 "+name, "everybody on this machine can read %s", name)
			}
		}
		if right, err := b.Synchronised(); l.TLS && (err != nil || !right) {
			warn("let systemd-timesyncd, chrony or ntpd set the clock, or fit a battery clock", "nothing keeps the clock right, by which its servers' certificates are judged")
		}
		if answered := b.call(l, warn); well {
			say(OK, "link "+l.Name+": "+answered, "")
		}
	}
}

// call looks whether the servers of a link are there, and says which answered.
func (b *Board) call(l *Link, warn func(change, format string, args ...any)) string {
	ctx, cancel := context.WithTimeout(context.Background(), linkPatience)
	defer cancel()
	var unknown, silent []error
	for _, server := range l.Servers {
		host, _, err := net.SplitHostPort(server)
		if err == nil {
			err = b.Resolve(ctx, host)
		}
		if err != nil {
			unknown = append(unknown, err)
			continue
		}
		if l.Metered {
			continue
		}
		if err := b.Dial(ctx, server); err != nil {
			silent = append(silent, err)
			continue
		}
		if len(unknown) > 0 {
			break // told below
		}
		return server + " answers"
	}
	switch {
	case len(unknown) > 0:
		warn("look at /etc/resolv.conf, or name the servers by their addresses", "a name is not found: %s", oneLine(errors.Join(unknown...)))
	case len(silent) > 0:
		warn("look at the network, and at firewalls on the way; records wait on the board meanwhile", "no server answers: %s", oneLine(errors.Join(silent...)))
	case l.Metered:
		return "it is metered, so its servers are not called; their names are found"
	}
	return ""
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// resolve finds a host.
func resolve(ctx context.Context, host string) error {
	_, err := net.DefaultResolver.LookupHost(ctx, host)
	return err
}

// dial opens a connection and closes it.
func dial(ctx context.Context, address string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}
