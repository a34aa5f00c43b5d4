package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"millrace/broker/auth"
	"millrace/broker/catalog"
)

const (
	// adminName is the user that a board begins with; super.users names it.
	adminName = "admin"
	// oldAdminFile is where older versions wrote the secret of the first start, in the data directory and in clear.
	oldAdminFile = "admin.properties"
	// adminIterations are those of the first secret. It is random and long: more would protect nothing.
	adminIterations = auth.IterationsMin
)

// openAdmin sees to it that somebody can log in where that is asked for: the users of admin.scram.file, or, where there
// is none and the catalog has no user either, an admin with a random secret that is shown once and kept nowhere.
func (b *Broker) openAdmin(ctx context.Context) error {
	s := b.config.Settings
	if err := b.forgetOldAdmin(); err != nil {
		b.log.Error("a file with the admin's secret in clear is still there", "file", filepath.Join(b.dir(), oldAdminFile), "err", err)
	}
	if s.Security.AdminScramFile != "" {
		return b.provision(ctx, s.Security.AdminScramFile)
	}
	if !s.Logins() || b.quorum.Image().UserCount() > 0 {
		return nil
	}
	// It is shown before it counts: after a power cut between the two the next start draws another. The other way round there
	// would be an admin whose secret nobody knows.
	password := auth.RandomPassword()
	if err := b.reveal(adminName, password); err != nil {
		b.log.Error("nobody can log in: the secret of a first admin could not be shown; the next start tries again, or admin.scram.file in [security] says who can", "err", err)
		return nil
	}
	// SCRAM-SHA-512 is what the tools ask for unless they are told: it comes first, for a cut between the two.
	for _, m := range []auth.Mechanism{auth.ScramSHA512, auth.ScramSHA256} {
		c, err := auth.NewCredential(m, password, adminIterations)
		if err != nil {
			return err
		}
		if _, err := b.quorum.Propose(ctx, catalog.UpsertCredential{User: adminName, Credential: c}); err != nil {
			return err
		}
	}
	b.log.Warn("nobody could log in yet: there is a user admin now, whose secret was shown once; change it with `millrace user add admin`")
	return nil
}

// errNoReveal is why a secret is not shown by a program that hands in nothing to show it with.
var errNoReveal = errors.New("there is nowhere to show it")

func (b *Broker) reveal(user, secret string) error {
	if b.config.Reveal == nil {
		return errNoReveal
	}
	return b.config.Reveal(user, secret)
}

// oldPassword finds the secret in the file of an older version.
var oldPassword = regexp.MustCompile(`password="([^"]+)"`)

// forgetOldAdmin removes the file in which an older version kept the secret of the first start. Where that still counts it
// is shown once more: its owner may have it nowhere else.
func (b *Broker) forgetOldAdmin() error {
	name := filepath.Join(b.dir(), oldAdminFile)
	f, err := b.config.FS.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, 0, metaMax))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if found := oldPassword.FindSubmatch(raw); found != nil && auth.CheckPassword(b.quorum.Image(), adminName, string(found[1])) {
		if err := b.reveal(adminName, string(found[1])); err != nil {
			return err
		}
	}
	if err := errors.Join(b.config.FS.Remove(name), b.config.FS.SyncDir(b.dir(), pointMetaDir)); err != nil {
		return err
	}
	b.log.Warn("the file with the admin's secret was removed: only what checks it is kept; a secret that still counts was shown once", "file", name)
	return nil
}

// provision makes the users of a file that are not there yet. Those that are keep their credentials: a password that was
// changed stays changed.
func (b *Broker) provision(ctx context.Context, name string) error {
	raw, err := readFile(name)
	if err != nil {
		err = fmt.Errorf("admin.scram.file: %w", err)
	}
	var all []catalog.UpsertCredential
	if err == nil {
		if all, err = parseScram(string(raw)); err != nil {
			err = fmt.Errorf("admin.scram.file %s: %w", name, err)
		}
	}
	switch {
	case err == nil:
	case b.quorum.Image().UserCount() == 0:
		return err
	case errors.Is(err, fs.ErrNotExist): // whoever provisioned the board has taken it away again
		b.log.Info("admin.scram.file is not there; the users there are stay", "file", name)
		return nil
	default:
		b.log.Error("admin.scram.file not taken; the users there are stay", "err", err)
		return nil
	}
	known := make(map[string]bool)
	for _, c := range all {
		if _, seen := known[c.User]; !seen {
			known[c.User] = b.quorum.Image().User(c.User) != nil
		}
		if known[c.User] {
			continue
		}
		if err := catalog.Validate(b.quorum.Image(), c); err != nil {
			return fmt.Errorf("admin.scram.file %s: %w", name, err)
		}
		if _, err := b.quorum.Propose(ctx, c); err != nil {
			return err
		}
		b.log.Info("a user of admin.scram.file was made", "user", c.User, "mechanism", c.Credential.Mechanism)
	}
	return nil
}

// parseScram reads credentials, one a line, as `kafka-storage format --add-scram` takes them:
//
//	SCRAM-SHA-512=[name=admin,iterations=8192,salt="…",saltedpassword="…"]
//
// with salt and salted password in base64, or password="…" in place of both. Errors name lines, never what is in them.
func parseScram(text string) (all []catalog.UpsertCredential, err error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		c, err := parseScramLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: there is none in the file", auth.ErrCredential)
	}
	return all, nil
}
