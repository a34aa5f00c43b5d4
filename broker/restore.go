package broker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"millrace/broker/disk"
	"millrace/platform/config"
)

const (
	// restoringName is the directory in a data directory in which a restore gathers what it then puts in place. While it is
	// there, and meta.properties is not, all beside it is a restore's that was cut short.
	restoringName = ".restoring"
	// restoredName is where the configuration of a backup, and the files it names, are put.
	restoredName = "restored"
	manifestMax  = 64 << 20
)

// ErrBackup is returned by Restore for a file that is no whole backup of ours.
var ErrBackup = errors.New("not a whole backup")

// Archive is a backup that can be read more than once.
type Archive func() (*tar.Reader, io.Closer, error)

// Restore makes an empty directory the data directory a backup was made of. Every byte of the backup is checked against
// its sum before anything is written; after a power cut it can be done again, and until it is done nothing starts on the
// directory.
//
// The copy keeps cluster and node, for it takes the board's place. It is another incarnation: its directory id is new, so
// that it cannot be taken for the board it was made of, should that come back, nor two copies for one.
//
// What root restores into another user's directory is that user's.
func Restore(ctx context.Context, fsys disk.FS, open Archive, dir string) (*Manifest, Meta, error) {
	fsys = orOS(fsys)
	m, err := verified(open)
	if err != nil {
		return nil, Meta{}, err
	}
	if err := makeDir(fsys, dir); err != nil {
		return m, Meta{}, err
	}
	if _, err := remains(fsys, dir); err != nil { // before anything is left there
		return m, Meta{}, err
	}
	l, err := lockDir(dir)
	if err != nil {
		return m, Meta{}, err
	}
	var meta Meta
	give, err := giver(fsys, dir)
	if err == nil {
		err = give(filepath.Join(dir, lockName))
	}
	if err == nil {
		err = vacate(fsys, dir, m)
	}
	if err == nil {
		meta, err = restore(ctx, fsys, open, dir, m, give)
	}
	return m, meta, errors.Join(err, l.release())
}

// makeDir makes a directory whose name is durable, unless it is there.
func makeDir(fsys disk.FS, dir string) error {
	_, err := fsys.Stat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fsys.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir), pointMetaDir)
}

// giver is what gives a file, or a directory with all that is below it, to the owner of dir, durably: the broker runs as
// that user, and could not open what is root's. It does nothing where that is us already, or where we may not.
func giver(fsys disk.FS, dir string) (give func(name string) error, err error) {
	info, err := fsys.Stat(dir)
	if err != nil {
		return nil, err
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); !ok || me != 0 || int64(of.Uid) == int64(me) && int64(of.Gid) == int64(os.Getegid()) {
		return func(string) error { return nil }, nil
	}
	give = func(name string) error {
		info, err := fsys.Stat(name)
		if err != nil {
			return err
		}
		if info.IsDir() {
			entries, err := fsys.ReadDir(name)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if err := give(filepath.Join(name, e.Name())); err != nil {
					return err
				}
			}
		}
		f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if owned, ok := f.(disk.Owned); ok {
			err = owned.SetOwner(int(of.Uid), int(of.Gid), pointMeta)
		}
		return errors.Join(err, f.Close())
	}
	return give, nil
}

// verified reads a backup from end to end and returns what it says it holds, which is what it holds.
func verified(open Archive) (m *Manifest, err error) {
	have := map[string]ManifestFile{}
	err = each(open, func(h *tar.Header, r io.Reader) (err error) {
		switch {
		case m != nil:
			return fmt.Errorf("%s comes after the manifest: %w", h.Name, ErrBackup)
		case h.Name == backupManifest:
			m, err = readManifest(h.Size, r)
			return err
		case len(have) >= backupFiles:
			return fmt.Errorf("more than %d files: %w", backupFiles, ErrBackup)
		}
		if _, twice := have[h.Name]; twice || !placed(h) {
			return fmt.Errorf("%q has no place in a backup: %w", h.Name, ErrBackup)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBackup, h.Name, err)
		}
		have[h.Name] = ManifestFile{h.Name, n, hex.EncodeToString(sum.Sum(nil))}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, fmt.Errorf("it was cut short: %w", ErrBackup)
	case m.Format > backupFormat || m.DataFormat > FormatVersion:
		return nil, fmt.Errorf("format %d with data of format %d, this build knows up to %d and %d: %w", m.Format, m.DataFormat, backupFormat, FormatVersion, ErrNewerFormat)
	case len(have) != len(m.Files):
		return nil, fmt.Errorf("it has %d files, its manifest %d: %w", len(have), len(m.Files), ErrBackup)
	}
	for _, f := range m.Files {
		if have[f.Name] != f {
			return nil, fmt.Errorf("%s is not as it was written: %w", f.Name, ErrBackup)
		}
	}
	return m, ValidClusterID(m.ClusterID)
}

// readManifest reads the manifest and checks it against the sum behind it.
func readManifest(size int64, r io.Reader) (*Manifest, error) {
	const tail = 1 + 2*sha256.Size + 1
	if size <= tail || size > manifestMax {
		return nil, fmt.Errorf("a manifest of %d bytes: %w", size, ErrBackup)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", ErrBackup, err)
	}
	text := raw[:size-tail]
	if fmt.Sprintf("\n%x\n", sha256.Sum256(text)) != string(raw[size-tail:]) {
		return nil, fmt.Errorf("its manifest is not as it was written: %w", ErrBackup)
	}
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", ErrBackup, err)
	}
	return m, nil
}

// placed says whether a name is one of a backup: below data/ or config/, and nowhere else.
func placed(h *tar.Header) bool {
	rest, ok := strings.CutPrefix(h.Name, backupData)
	if !ok {
		rest, ok = strings.CutPrefix(h.Name, backupConfig)
	}
	return ok && h.Typeflag == tar.TypeReg && filepath.IsLocal(rest) && filepath.Clean(rest) == rest
}

// each reads a backup.
func each(open Archive, fn func(*tar.Header, io.Reader) error) error {
	r, closer, err := open()
	if err != nil {
		return err
	}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return closer.Close()
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrBackup, err)
		} else if err = fn(h, r); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
			err = fmt.Errorf("%w: %w", ErrBackup, err)
		}
		if err != nil {
			return errors.Join(err, closer.Close())
		}
	}
}

// remains lists what a restore that was cut short has left in a directory, the mark that it did last. Anything else in it
// is ErrOccupied.
func remains(fsys disk.FS, dir string) (list []string, err error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	cut, whole := false, false
	for _, e := range entries {
		switch name := e.Name(); name {
		case lockName, "lost+found":
		case restoringName:
			cut = true
		default:
			whole = whole || name == metaName || name == metaCopy
			list = append(list, name)
		}
	}
	switch {
	case cut && !whole:
		return append(list, restoringName), nil
	case len(list) > 0:
		return nil, fmt.Errorf("%s holds %s: %w; restore into an empty one", dir, list[0], ErrOccupied)
	}
	return nil, nil
}

// vacate removes what is left of a restore that was cut short, and sees to it that there is room.
func vacate(fsys disk.FS, dir string, m *Manifest) error {
	list, err := remains(fsys, dir)
	if err != nil {
		return err
	}
	for _, name := range list {
		if name == restoringName {
			continue // the others are known for a restore's by it, should the power go now: they must not outlive it
		}
		if err := removeAll(fsys, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if len(list) > 0 {
		if err := empty(fsys, filepath.Join(dir, restoringName)); err != nil {
			return err
		}
	}
	var need int64
	for _, f := range m.Files {
		need += f.Size
	}
	space, err := fsys.Usage(dir)
	if err == nil && space.Free < need {
		err = fmt.Errorf("%s has %d bytes free, the backup needs %d: %w", dir, space.Free, need, disk.ErrFull)
	}
	return err
}

func removeAll(fsys disk.FS, name string) error {
	info, err := fsys.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		err = empty(fsys, name)
	}
	return errors.Join(err, fsys.Remove(name))
}

// empty removes what is in a directory.
func empty(fsys disk.FS, name string) error {
	entries, err := fsys.ReadDir(name)
	for _, e := range entries {
		err = errors.Join(err, removeAll(fsys, filepath.Join(name, e.Name())))
	}
	return err
}

// restore writes what a checked backup holds.
func restore(ctx context.Context, fsys disk.FS, open Archive, dir string, m *Manifest, give func(name string) error) (Meta, error) {
	temp := filepath.Join(dir, restoringName)
	meta := Meta{ClusterID: m.ClusterID, NodeID: m.NodeID, DirectoryID: RandomUUID(), Format: m.DataFormat}
	if err := fsys.MkdirAll(temp, 0o750); err != nil {
		return meta, err
	}
	if err := fsys.SyncDir(dir, pointMetaDir); err != nil { // from here on all that is beside it is ours
		return meta, err
	}
	sums := map[string]string{}
	for _, f := range m.Files {
		sums[f.Name] = f.Sum
	}
	if err := each(open, func(h *tar.Header, r io.Reader) error {
		rest, data := strings.CutPrefix(h.Name, backupData)
		switch {
		case h.Name == backupManifest:
			return nil
		case !data:
			rest = filepath.Join(restoredName, strings.TrimPrefix(h.Name, backupConfig))
		}
		sum := sha256.New()
		if err := extract(fsys, filepath.Join(temp, rest), io.TeeReader(r, sum), data); err != nil {
			return err
		}
		if hex.EncodeToString(sum.Sum(nil)) != sums[h.Name] {
			return fmt.Errorf("%s has changed while it was read: %w", h.Name, ErrBackup)
		}
		return nil
	}); err != nil {
		return meta, err
	}
	if err := WriteMeta(fsys, temp, meta); err != nil {
		return meta, err
	}
	// What does not start is not put in place. The start also leaves a journal and a checkpoint of its own.
	settings := config.Default()
	settings.Broker.LogDirs, settings.Broker.NodeID = temp, m.NodeID
	settings.Flash.ReserveBytes = settings.Journal.BytesMax
	b, _, err := settled(ctx, Config{Settings: settings, FS: fsys})
	if err == nil {
		meta = b.meta
		err = b.Close()
	}
	if err != nil {
		return meta, fmt.Errorf("what was restored does not start: %w", err)
	}
	if err := give(temp); err != nil {
		return meta, err
	}
	return meta, putInPlace(fsys, temp, dir)
}

// extract writes one file, durably but for its name.
func extract(fsys disk.FS, name string, r io.Reader, data bool) error {
	if err := fsys.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if !data || slices.ContainsFunc(identityParts, func(f string) bool {
		return strings.Contains(filepath.ToSlash(name)+"/", restoringName+"/"+f+"/")
	}) {
		mode = 0o600
	}
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(f, 0), r)
	if err == nil {
		err = f.Sync(pointMeta)
	}
	return errors.Join(err, f.Close())
}

// putInPlace moves what was restored out of temp, meta.properties last: with that the directory is a data directory.
func putInPlace(fsys disk.FS, temp, dir string) error {
	if err := syncTree(fsys, temp); err != nil {
		return err
	}
	entries, err := fsys.ReadDir(temp)
	if err != nil {
		return err
	}
	last := func(name string) bool { return name == metaName || name == metaCopy }
	for _, e := range entries {
		if name := e.Name(); !last(name) && name != lockName {
			if err := fsys.Rename(filepath.Join(temp, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	if err := fsys.SyncDir(dir, pointMetaDir); err != nil {
		return err
	}
	for _, name := range []string{metaName, metaCopy} {
		if err := fsys.Rename(filepath.Join(temp, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := fsys.SyncDir(dir, pointMetaDir); err != nil {
		return err
	}
	return errors.Join(removeAll(fsys, temp), fsys.SyncDir(dir, pointMetaDir))
}

// syncTree makes the names in a directory, and below it, durable.
func syncTree(fsys disk.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := syncTree(fsys, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return fsys.SyncDir(dir, pointMetaDir)
}

// interrupted says what to do with a directory in which a restore was cut short.
func interrupted(fsys disk.FS, dir string) error {
	if _, err := fsys.Stat(filepath.Join(dir, restoringName)); err != nil {
		return nil // no restore
	}
	return fmt.Errorf("a restore into %s was cut short: %w; do it again, or empty the directory", dir, ErrOccupied)
}
