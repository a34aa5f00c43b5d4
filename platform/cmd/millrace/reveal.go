package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// reveal shows the secret that a board begins with, on the machine's console where `serve` was handed that, else on standard
// error, and not in the log, which may be kept. Where standard error is the journal of systemd, that is kept too: then a file
// in the service's runtime directory has it, in memory and for its owner only, until the service stops.
func (c *command) reveal(user, secret string) error {
	out := c.errs
	if c.console != nil {
		out = c.console
	} else if dir := runtimeDirectory(); dir != "" && journaled(c.errs) {
		name := filepath.Join(dir, user+".secret")
		if err := writeSecret(name, secret); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "the first secret of user %s is in %s until this service stops; nothing else keeps it\n", user, name)
		return err
	}
	if c.format == "json" {
		_, err := fmt.Fprintf(out, `{"user":%q,"secret":%q,"shown":"once"}`+"\n", user, secret)
		return err
	}
	line := strings.Repeat("-", 78)
	_, err := fmt.Fprintf(out, "%s\nThis board lets in who logs in, and begins with one user:\n\n    user    %s\n    secret  %s\n\n"+
		"It is shown this once and kept nowhere: write it down, or change it with\n`millrace user add %s --user %s --password-file FILE`, the new one on standard input.\n%s\n",
		line, user, secret, user, user, line)
	return err
}

// runtimeDirectory is what systemd has made for this run (RuntimeDirectory=), "" for none. It lies in memory.
func runtimeDirectory() string {
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	var s unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &s) != nil || s.Type != unix.TMPFS_MAGIC {
		return ""
	}
	return dir
}

// journaled says whether what is written there goes to the journal of systemd.
func journaled(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", s.Dev, s.Ino)
}

func writeSecret(name, secret string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, secret)
	return errors.Join(err, f.Close())
}
