package broker

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"millrace/broker/disk"
	"millrace/platform/identity"
)

// A reset is a name in the data directory, durable before the first thing is removed. From then on there is no way back:
// every start removes what there is before anything is served, until one has come up on what it has made itself, and takes
// the name away. So a power cut leaves the old board, or one that is going to be new, never a part of one.
const (
	resetName = "factory-reset"
	// resetKeepName is that of a reset which keeps who the board is. Where both are there, nothing is kept.
	resetKeepName = "factory-reset.keep-identity"
)

var pointReset = disk.NewPoint("reset.directory")

// FactoryReset removes everything a board has in dir but, with keepIdentity, who it is: its key and certificate, cluster id
// and node id. The next start is a first start. It returns the names in dir that it removed. It returns ErrNotFormatted
// where no board was, and an error where a broker runs. After any other error, or a power cut, doing it again or a start
// goes on with it.
func FactoryReset(fsys disk.FS, dir string, keepIdentity bool) (removed []string, err error) {
	if _, err := ResetPlan(fsys, dir, keepIdentity); err != nil {
		return nil, err
	}
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	name := resetName
	if keepIdentity {
		name = resetKeepName
	}
	f, err := fsys.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Close(), fsys.SyncDir(dir, pointReset)); err != nil {
		return nil, err
	}
	_, keep, err := resetting(fsys, dir)
	if err != nil {
		return nil, err
	}
	return wipe(fsys, dir, keep)
}

// ResetPlan tells the names in dir that FactoryReset would remove. It changes nothing.
func ResetPlan(fsys disk.FS, dir string, keepIdentity bool) ([]string, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if _, err := ReadMeta(fsys, dir); errors.Is(err, ErrNotFormatted) {
		pending, keep, resetErr := resetting(fsys, dir)
		if resetErr != nil || !pending {
			return nil, errors.Join(err, resetErr)
		}
		keepIdentity = keepIdentity && keep
	}
	return removable(entries, keepIdentity), nil
}

// resetting says whether a reset of dir has begun, and whether it keeps who the board is.
func resetting(fsys disk.FS, dir string) (pending, keep bool, err error) {
	there := func(name string) bool {
		_, statErr := fsys.Stat(filepath.Join(dir, name))
		if statErr != nil && !errors.Is(statErr, fs.ErrNotExist) {
			err = errors.Join(err, statErr)
		}
		return statErr == nil
	}
	all, most := there(resetName), there(resetKeepName)
	return all || most, !all, err
}

// removable are the names of a board's files and directories, in the order of entries.
func removable(entries []os.DirEntry, keepIdentity bool) (names []string) {
	stays := []string{lockName, "lost+found", resetName, resetKeepName}
	if keepIdentity {
		stays = append(stays, identity.File, identity.Copy, metaName, metaCopy)
	}
	for _, e := range entries {
		if !slices.Contains(stays, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// wipe removes what a reset removes, durably.
func wipe(fsys disk.FS, dir string, keepIdentity bool) (removed []string, err error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range removable(entries, keepIdentity) {
		if err := removeTree(fsys, filepath.Join(dir, name)); err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	return removed, fsys.SyncDir(dir, pointReset)
}

// removeTree removes a file, or a directory and all below it. It follows no links.
func removeTree(fsys disk.FS, name string) error {
	err := fsys.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, readErr := fsys.ReadDir(name)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	for _, e := range entries {
		if err := removeTree(fsys, filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return fsys.Remove(name)
}

// goOnWithReset finishes what FactoryReset began in the data directory, which is locked, as far as it goes before the
// board is up again.
func (b *Broker) goOnWithReset() error {
	pending, keep, err := resetting(b.config.FS, b.dir())
	if err != nil || !pending {
		return err
	}
	removed, err := wipe(b.config.FS, b.dir(), keep)
	if err != nil {
		return err
	}
	b.resetting = true
	b.log.Warn("this board was reset to what it was when it was new", "identity kept", keep, "removed now", removed)
	m, err := ReadMeta(b.config.FS, b.dir())
	if err != nil || !keep {
		return nil // the start makes another
	}
	// The directory has other contents than the one that others may remember.
	m.DirectoryID = RandomUUID()
	return WriteMeta(b.config.FS, b.dir(), m)
}

// endReset lets the next start find what this one has made. Nothing was acknowledged before.
func (b *Broker) endReset(context.Context) error {
	if !b.resetting {
		return nil
	}
	return unmark(b.config.FS, b.dir())
}

// unmark takes the names of a reset away, durably.
func unmark(fsys disk.FS, dir string) error {
	for _, name := range []string{resetName, resetKeepName} {
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fsys.SyncDir(dir, pointReset)
}
