package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"millrace/broker/disk"
	"millrace/platform/identity"
)

// IdentityFiles is where the identity of a data directory lies. What it writes is durable when it returns; a broker may
// have the directory open meanwhile.
func IdentityFiles(fsys disk.FS, dir string) identity.Files { return identityFiles{fsys, dir} }

type identityFiles struct {
	fs  disk.FS
	dir string
}

// Read implements identity.Files.
func (f identityFiles) Read(name string) ([]byte, error) {
	file, err := f.fs.OpenFile(filepath.Join(f.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.NewSectionReader(file, 0, certificateMax+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(raw) > certificateMax {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", identity.ErrIdentity, name, certificateMax)
	}
	return raw, nil
}

// Write implements identity.Files.
func (f identityFiles) Write(name string, text []byte) error {
	if err := writeWhole(f.fs, filepath.Join(f.dir, name), text, 0o600); err != nil {
		return err
	}
	return f.fs.SyncDir(f.dir, pointMetaDir)
}

// Rename implements identity.Files.
func (f identityFiles) Rename(name, next string) error {
	return f.fs.Rename(filepath.Join(f.dir, name), filepath.Join(f.dir, next))
}

// identityNames is what the certificate of this board is for: what the kernel knows, and where clients are told to come.
func (b *Broker) identityNames() identity.Names { return identity.Here(b.config.Settings.Hosts()...) }

// openIdentity makes the board's key and certificate when it has none. A disk that takes none is no reason not to start.
func (b *Broker) openIdentity(context.Context) error {
	i, found, err := identity.Open(IdentityFiles(b.config.FS, b.dir()), b.identityNames)
	if err != nil {
		return err
	}
	b.identity = i
	if found.Err != nil {
		b.log.Error("the board's key or its copy was damaged", "err", found.Err, "a new one", found.Made)
	}
	if found.Made {
		b.log.Info("this board has a key and a certificate now", "sha256", i.Fingerprint(), "names", append(i.Leaf().DNSNames, addresses(i.Leaf().IPAddresses)...))
	}
	if found.Unsaved != nil {
		b.log.Error("the board's key could not be written; the next start may have another", "err", found.Unsaved)
	}
	return nil
}

func addresses(all []net.IP) (text []string) {
	for _, ip := range all {
		text = append(text, ip.String())
	}
	return text
}

// ownIdentity is the identity as it lies on the disk, where `millrace cert` may have changed it since the start.
func (b *Broker) ownIdentity() (*identity.Identity, error) {
	if b.certificates == nil {
		return b.identity, nil // this is the start, which has read it
	}
	i, err := identity.Load(IdentityFiles(b.config.FS, b.dir()))
	if errors.Is(err, fs.ErrNotExist) {
		return b.identity, nil // it could not be written
	}
	return i, err
}

// identity looks at the board's key and its copy.
func (c *fsck) identity() {
	files := IdentityFiles(c.fs, c.Dir)
	good, err := identity.Load(files)
	if errors.Is(err, fs.ErrNotExist) {
		return // of an older version, or of a board that has never started
	}
	if err != nil {
		c.found(Finding{Damage: true, Path: filepath.Join(c.Dir, identity.File), Text: err.Error() + "; the next start makes another key, and clients that know this one refuse it"})
		return
	}
	for _, name := range []string{identity.File, identity.Copy} {
		raw, err := files.Read(name)
		if err == nil {
			_, err = identity.Parse(raw)
		}
		if err != nil {
			c.found(Finding{
				Path: filepath.Join(c.Dir, name), Text: "unreadable, the other copy is good: " + err.Error(), Repair: "write it from the other copy",
				repair: func(fsys disk.FS) error { return identity.Save(IdentityFiles(fsys, c.Dir), good) },
			})
		}
	}
}
