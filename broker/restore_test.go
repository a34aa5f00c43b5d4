package broker

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/broker/disk"
	"millrace/platform/config"
)

// failing is a filesystem that changes nothing any more after so many changes, as if the power had gone.
type failing struct {
	disk.FS
	left int
}

var errGone = errors.New("the power has gone")

func (f *failing) spend() error {
	if f.left--; f.left < 0 {
		return errGone
	}
	return nil
}

func (f *failing) OpenFile(name string, flag int, perm os.FileMode) (disk.File, error) {
	if flag&os.O_CREATE != 0 {
		if err := f.spend(); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return failingFile{file, f}, nil
}

func (f *failing) MkdirAll(name string, perm os.FileMode) error {
	return errors.Join(f.spend(), f.unless(func() error { return f.FS.MkdirAll(name, perm) }))
}

func (f *failing) Rename(from, to string) error {
	return errors.Join(f.spend(), f.unless(func() error { return f.FS.Rename(from, to) }))
}

func (f *failing) Remove(name string) error {
	return errors.Join(f.spend(), f.unless(func() error { return f.FS.Remove(name) }))
}

func (f *failing) SyncDir(name string, p disk.Point) error {
	return errors.Join(f.spend(), f.unless(func() error { return f.FS.SyncDir(name, p) }))
}

func (f *failing) unless(do func() error) error {
	if f.left < 0 {
		return nil
	}
	return do()
}

type failingFile struct {
	disk.File
	f *failing
}

func (f failingFile) WriteAt(p []byte, at int64) (int, error) {
	if f.f.left < 0 {
		return 0, errGone
	}
	return f.File.WriteAt(p, at)
}

func (f failingFile) Sync(p disk.Point) error {
	return errors.Join(f.f.spend(), f.f.unless(func() error { return f.File.Sync(p) }))
}

func boardSettings(dir string) *config.Config {
	s := config.Default()
	s.Broker.LogDirs, s.Broker.Listeners, s.MQTT.Listeners, s.HTTP.Listener = dir, []string{"PLAINTEXT://127.0.0.1:0"}, []string{"tcp://127.0.0.1:0"}, ""
	return s
}

// stoppedBoard is the directory of a board with one record, which does not run.
func stoppedBoard(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "origin")
	b, err := Open(t.Context(), Config{Settings: boardSettings(dir)})
	if err != nil {
		t.Fatal(err)
	}
	appendOne(t, b, "climate", "21.5")
	closed(t, b)
	return dir
}

// backedUp is a backup of a board with all its records.
func backedUp(t *testing.T, dir string) (Archive, *Manifest) {
	t.Helper()
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	m, err := Backup(t.Context(), Config{Settings: boardSettings(dir)}, BackupOptions{All: true}, w)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return func() (*tar.Reader, io.Closer, error) {
		return tar.NewReader(bytes.NewReader(file.Bytes())), io.NopCloser(nil), nil
	}, m
}

// However far a restore came, nothing starts on half of it, and it can be done again.
func TestARestoreThatIsCutShort(t *testing.T) {
	root := t.TempDir()
	archive, _ := backedUp(t, stoppedBoard(t))
	cuts, begun := 0, 0
	for after := 0; ; after += 2 {
		dir := filepath.Join(root, "copy")
		_, _, err := Restore(t.Context(), &failing{disk.OS{}, after}, archive, dir)
		if err == nil {
			break
		}
		if cuts++; !errors.Is(err, errGone) && !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("after %d changes: %v", after, err)
		}
		if _, err := ReadMeta(disk.OS{}, dir); err == nil { // the last moves were left: it is whole
			looksWhole(t, dir)
		} else {
			if _, err := os.Stat(filepath.Join(dir, restoringName)); err == nil {
				begun++
				if b, err := Open(t.Context(), Config{Settings: boardSettings(dir)}); !errors.Is(err, ErrOccupied) {
					if b != nil {
						closed(t, b)
					}
					t.Fatalf("after %d changes a board starts on half a restore: %v", after, err)
				}
			}
			if _, _, err := Restore(t.Context(), disk.OS{}, archive, dir); err != nil {
				t.Fatalf("after %d changes it cannot be done again: %v", after, err)
			}
			looksWhole(t, dir)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if cuts < 20 || begun < 15 {
		t.Errorf("cut short %d times, %d of them in the middle", cuts, begun)
	}
}

func looksWhole(t *testing.T, dir string) {
	t.Helper()
	r, err := Fsck(disk.OS{}, dir, nil)
	if err != nil || r.Damaged() || r.Batches != 1 || r.Partitions < 1 {
		t.Fatalf("fsck: %+v, %v", r, err)
	}
}

// What a board knows of the flash it writes to, and how its last life ended, is that board's: a copy has other flash, and no
// last life.
func TestABackupHasNoWearAndNoLife(t *testing.T) {
	origin := stoppedBoard(t)
	if err := os.WriteFile(filepath.Join(origin, wearFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(origin, endName)); err != nil {
		t.Fatal(err)
	}
	archive, m := backedUp(t, origin)
	for _, f := range m.Files {
		if strings.Contains(f.Name, wearFile) || strings.Contains(f.Name, endName) {
			t.Errorf("%s is in the backup", f.Name)
		}
	}
	dir := filepath.Join(t.TempDir(), "copy")
	if _, _, err := Restore(t.Context(), disk.OS{}, archive, dir); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), Config{Settings: boardSettings(dir), Boot: "another"})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, b)
	if e := b.End(); e.How != EndUnknown {
		t.Errorf("the copy says of its last life: %+v", e)
	}
}

// What root restores into the directory of the service's user is that user's, the lock too.
func TestRootRestoresForTheOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	const user, group = 64123, 64321
	dir := filepath.Join(t.TempDir(), "copy")
	archive, _ := backedUp(t, stoppedBoard(t))
	if err := errors.Join(os.Mkdir(dir, 0o750), os.Chown(dir, user, group)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Restore(t.Context(), disk.OS{}, archive, dir); err != nil {
		t.Fatal(err)
	}
	seen := 0
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		seen++
		if s := info.Sys().(*syscall.Stat_t); s.Uid != user || s.Gid != group {
			t.Errorf("%s is %d:%d's", name, s.Uid, s.Gid)
		}
		return nil
	}); err != nil || seen < 10 {
		t.Errorf("%d files, %v", seen, err)
	}
	looksWhole(t, dir)
}
