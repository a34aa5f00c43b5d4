package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"millrace/broker/disk"
)

// page is what the kernel writes back at once.
const page = 4096

// recorder knows what of a directory tree would be there after a power cut.
//
// Files and directories are told apart by their inode, not by their name, since a file may be renamed, and since
// tidwall/wal creates and writes its files through handles of its own: what a file holds is read from the real file at
// each sync of it, and what a directory holds from the real directory at each sync of that.
//
// The disk is never really synced: the recorder is the disk.
type recorder struct {
	root  string
	wal   string // directory of a tidwall/wal, "" for none
	spoil string // directory whose files a failed sync may spoil, "" for none

	mu    sync.Mutex
	nodes map[uint64]*node // by inode number; a number is forgotten when its file is removed
	top   *node
	ops   int64    // changing operations so far
	last  int64    // the operation the power is cut in, 0 for none
	cut   *picture // what the disk and the page cache held at the cut, nil before
	err   error    // why the picture could not be taken

	ending sync.Once
	over   chan struct{} // closed when the last operation begins
}

// node is a file or directory, however it is named now.
type node struct {
	// entries is, for a directory, what it holds durably. It is nil for a file.
	entries map[string]*node

	// syncing orders the syncs of a file: a slow one must not bring back older bytes.
	syncing sync.Mutex
	// durable is what the disk surely holds of a file. Replaced or changed under recorder.mu.
	durable []byte
	// clean is what the kernel takes for durable, after a failed sync: pages that are equal to it are not written by
	// the next sync, though the disk may never have seen them. nil when it is the same as durable.
	clean []byte
	// rewritten are the pages, by number, that were written since that failed sync: dirty again even where the bytes are
	// the same. Guarded by recorder.mu.
	rewritten map[int]bool
	// spoilt are the pages, by number, that a failed sync was to write and no sync has written since: the disk may hold
	// garbage there, with what was durable. Guarded by recorder.mu; empty outside recorder.spoil.
	spoilt map[int]bool
	// spare is memory for the next sync. Guarded by syncing.
	spare []byte
}

// Record starts recording the tree under root, a real directory: everything in it now is durable, and from now on only
// what is synced. Files that are open already are not seen. It is called once.
func (f *FS) Record(root string) error {
	r := &recorder{root: filepath.Clean(root), nodes: make(map[uint64]*node), over: make(chan struct{})}
	top, err := r.load(r.root)
	if err != nil {
		return err
	}
	r.top = top
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.recorder != nil {
		return errors.New("disktest: recording already")
	}
	f.recorder = r
	return nil
}

// WAL names the directory of a tidwall/wal that is opened with NoSync. When the wal goes on in another file it syncs the
// one before through a handle of its own, which nobody sees; so a file that appears there by itself, whose name sorts
// behind another, means that the other is durable. It is called after Record.
func (f *FS) WAL(dir string) {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wal = filepath.Clean(dir)
}

// Spoil names a directory whose files bear what others need not: that a failed sync spoils the blocks it was to write,
// with the durable bytes that share them, until they have been written and synced again. A test cuts the power only when
// the program has had the chance to do that. It is called after Record.
func (f *FS) Spoil(dir string) {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spoil = filepath.Clean(dir)
}

// StopAt cuts the power in the n-th changing operation from now, 1 being the next: that one takes effect in the page
// cache but returns ErrCut, a sync among them makes nothing durable, and all later operations return ErrCut and do
// nothing. Creating, writing, truncating, renaming, removing and syncing are changing operations.
func (f *FS) StopAt(n int64) {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = r.ops + n
}

// Stop cuts the power now.
func (f *FS) Stop() {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
}

// Stopped is closed when the power is cut: before anybody sees ErrCut.
func (f *FS) Stopped() <-chan struct{} { return f.record().over }

// Ops is the number of changing operations since Record.
func (f *FS) Ops() int64 {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ops
}

// do runs an operation unless the power is cut, and cuts it there if the operation's time has come. A nil recorder
// just runs it.
func (r *recorder) do(change bool, op func() error) error {
	if r == nil {
		return op()
	}
	last, err := r.enter(change)
	if err != nil {
		return err
	}
	err = op()
	if !last {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	return ErrCut
}

// enter counts an operation; last is true for the one the power is cut in.
func (r *recorder) enter(change bool) (last bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut != nil || r.last != 0 && r.ops >= r.last {
		return false, ErrCut // cut, or about to be by an operation that is still under way
	}
	if change {
		if r.ops++; r.ops == r.last {
			r.ending.Do(func() { close(r.over) })
			return true, nil
		}
	}
	return false, nil
}

// sync makes what file f holds durable, or if it fails makes the kernel forget that it is not.
func (r *recorder) sync(f *file, fault error) error {
	n := f.node
	n.syncing.Lock()
	defer n.syncing.Unlock()
	now, err := content(f.File, n.spare)
	if err != nil {
		return err
	}
	last, err := r.enter(true)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case last:
		r.stop()
		return ErrCut
	case r.cut != nil:
		return ErrCut
	case fault != nil:
		if r.spoil != "" && filepath.Dir(f.Name()) == r.spoil {
			n.spoil(now)
		}
		n.clean, n.spare = now, nil
		n.rewritten = make(map[int]bool)
		return fault
	}
	n.spare = n.written(now)
	return nil
}

// spoil notes the pages that a sync which fails was to write. recorder.mu is held.
func (n *node) spoil(now []byte) {
	if n.spoilt == nil {
		n.spoilt = make(map[int]bool)
	}
	written := n.durable
	if n.clean != nil {
		written = n.clean
	}
	for at := 0; at < len(now); at += page {
		if n.rewritten[at/page] || !bytes.Equal(span(now, at, page), span(written, at, page)) {
			n.spoilt[at/page] = true
		}
	}
}

// written makes a file's bytes durable, all or after a failed sync only the pages that changed since. It returns memory
// that may be used again. recorder.mu is held.
func (n *node) written(now []byte) (spare []byte) {
	if n.clean == nil {
		spare, n.durable = n.durable, now
		return spare
	}
	durable := make([]byte, len(now))
	copy(durable, n.durable)
	same := true
	for at := 0; at < len(now); at += page {
		dirty := span(now, at, page)
		if n.rewritten[at/page] || !bytes.Equal(dirty, span(n.clean, at, page)) {
			copy(durable[at:], dirty)
			delete(n.spoilt, at/page)
		}
		same = same && bytes.Equal(dirty, span(durable, at, page))
	}
	n.durable, n.clean = durable, now
	clear(n.rewritten)
	maps.DeleteFunc(n.spoilt, func(p int, _ bool) bool { return p*page >= len(now) })
	if same && len(n.spoilt) == 0 {
		n.clean = nil
	}
	return nil
}

// wrote notes that the kernel has been given size bytes at off of the file. A nil recorder notes nothing.
func (r *recorder) wrote(n *node, off int64, size int) {
	if r == nil || size == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n.clean == nil {
		return
	}
	for at := off / page; at <= (off+int64(size)-1)/page; at++ {
		n.rewritten[int(at)] = true
	}
}

// syncDir makes the entries of a directory durable.
func (r *recorder) syncDir(name string) error {
	last, err := r.enter(true)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if last {
		r.stop()
	}
	if r.cut != nil {
		return ErrCut
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	d := r.node(info)
	if d.entries == nil {
		return fmt.Errorf("disktest: %s is not a directory", name)
	}
	d.entries, err = r.list(name)
	return err
}

// stop takes the picture of the tree at the cut. r.mu is held.
func (r *recorder) stop() {
	if r.cut != nil {
		return
	}
	r.cut = &picture{entries: make(map[*node]map[string]*node), bytes: make(map[*node][]byte)}
	r.err = r.take(r.root, r.top)
	r.ending.Do(func() { close(r.over) })
}

// picture is what programs saw in the moment of the cut.
type picture struct {
	entries map[*node]map[string]*node // of each directory that was reachable
	bytes   map[*node][]byte           // of each file that was reachable
}

func (r *recorder) take(path string, d *node) error {
	entries, err := r.list(path)
	if err != nil {
		return err
	}
	r.cut.entries[d] = entries
	for name, n := range entries {
		path := filepath.Join(path, name)
		if n.entries != nil {
			err = r.take(path, n)
		} else {
			r.cut.bytes[n], err = os.ReadFile(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// load records a directory tree as durable.
func (r *recorder) load(path string) (*node, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	n := r.node(info)
	if n.entries == nil {
		n.durable, err = os.ReadFile(path)
		return n, err
	}
	if n.entries, err = r.list(path); err != nil {
		return nil, err
	}
	for name := range maps.Keys(n.entries) {
		if _, err := r.load(filepath.Join(path, name)); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// list reads what a directory really holds now. r.mu is held.
func (r *recorder) list(path string) (map[string]*node, error) {
	dir, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	entries := make(map[string]*node, len(dir))
	previous := ""
	for _, e := range dir {
		info, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // removed this instant, by an operation that is not synced either
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() && !info.Mode().IsRegular() {
			continue // a socket says who runs, and is nothing that is kept
		}
		_, known := r.nodes[info.Sys().(*syscall.Stat_t).Ino]
		n := r.node(info)
		entries[e.Name()] = n
		if !known && path == r.wal && len(entries) > 1 {
			if err := r.rolled(path, previous); err != nil {
				return nil, err
			}
		}
		previous = e.Name()
	}
	return entries, nil
}

// rolled makes the file durable after which the wal has made another.
func (r *recorder) rolled(dir, name string) error {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	now, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	r.node(info).written(now)
	return nil
}

// node finds the node of a file or directory by its inode, or makes one of which nothing is durable yet.
func (r *recorder) node(info os.FileInfo) *node {
	inode := info.Sys().(*syscall.Stat_t).Ino
	n, known := r.nodes[inode]
	if !known {
		n = &node{}
		if info.IsDir() {
			n.entries = make(map[string]*node)
		}
		r.nodes[inode] = n
	}
	return n
}

func (r *recorder) nodeOf(f disk.File) (*node, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node(info), nil
}

// replace runs an operation that removes or replaces what is at path, and forgets its inode number: the next file may
// get it. A nil recorder just runs it.
func (r *recorder) replace(path string, op func() error) error {
	if r == nil {
		return op()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if filepath.Dir(path) == r.wal { // the file that is replaced may be what tells that the wal rolled
		if _, err := r.list(r.wal); err != nil {
			return err
		}
	}
	info, statErr := os.Lstat(path)
	if err := op(); err != nil {
		return err
	}
	if statErr == nil {
		delete(r.nodes, info.Sys().(*syscall.Stat_t).Ino)
	}
	return nil
}

// content reads a whole file into b if it fits.
func content(f disk.File, b []byte) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b = slices.Grow(b[:0], int(info.Size()))[:info.Size()]
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// span is b[at:at+n] as far as b goes.
func span(b []byte, at, n int) []byte {
	if at >= len(b) {
		return nil
	}
	return b[at:min(at+n, len(b))]
}
