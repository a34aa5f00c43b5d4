// go-fuse does not build for 32-bit ARM.
//go:build !arm

package powercut

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// mount is a volume that other processes can use, and the log of everything they did to it. What it serves lies in
// memory: no byte of it needs to outlive the test, and nothing but the log can then say what was synced.
//
// A write to the file markName is no change of the volume but a mark in the log: everything the log has before it was done
// before the write returned, everything after it later.
type mount struct {
	server *fuse.Server

	mu     sync.Mutex
	volume *volume
	log    []op
	// faults makes the disk fail now and then; nil for never. The process switches it on by the mark that faulty
	// recognizes.
	faults        *rand.Rand
	faulty        func(mark []byte) bool
	broken        bool
	syncsPerFault int
}

// newMount serves v at dir. The caller unmounts.
func newMount(dir string, v *volume, faults *rand.Rand, faulty func([]byte) bool) (*mount, error) {
	m := &mount{volume: v, faults: faults, faulty: faulty, syncsPerFault: failedSyncs}
	root := &fuseNode{m: m, n: v.root}
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, FsName: "millrace-powercut", Name: "powercut", DisableXAttrs: true, MaxWrite: 1 << 20,
		},
		OnAdd: func(ctx context.Context) {
			root.grow(ctx)
			mark := root.NewPersistentInode(ctx, &markNode{m: m}, fs.StableAttr{Mode: syscall.S_IFREG})
			root.AddChild(markName, mark, false)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	m.server = server
	return m, nil
}

// unmount ends it. The processes that use it must have ended.
func (m *mount) unmount() error {
	if err := m.server.Unmount(); err != nil {
		return err
	}
	m.server.Wait()
	return nil
}

// do does an operation and logs it, in one.
func (m *mount) do(o op) {
	m.volume.apply(o)
	m.log = append(m.log, o)
}

// fails says whether the disk fails now, one time in n.
func (m *mount) fails(n int) bool { return m.broken && m.faults.IntN(n) == 0 }

// How often a disk that fails now and then does: one operation in so many.
const (
	failedSyncs  = 60 // where the mount does not say another number
	failedWrites = 250
)

// fuseNode is a file or directory of the volume.
type fuseNode struct {
	fs.Inode
	m *mount
	n *inode
}

var (
	_ fs.NodeCreater   = (*fuseNode)(nil)
	_ fs.NodeMkdirer   = (*fuseNode)(nil)
	_ fs.NodeUnlinker  = (*fuseNode)(nil)
	_ fs.NodeRmdirer   = (*fuseNode)(nil)
	_ fs.NodeRenamer   = (*fuseNode)(nil)
	_ fs.NodeOpener    = (*fuseNode)(nil)
	_ fs.NodeReader    = (*fuseNode)(nil)
	_ fs.NodeWriter    = (*fuseNode)(nil)
	_ fs.NodeGetattrer = (*fuseNode)(nil)
	_ fs.NodeSetattrer = (*fuseNode)(nil)
	_ fs.NodeFsyncer   = (*fuseNode)(nil)
	_ fs.NodeFlusher   = (*fuseNode)(nil)
	_ fs.NodeStatfser  = (*fuseNode)(nil)
)

// grow shows what the volume holds to begin with.
func (f *fuseNode) grow(ctx context.Context) {
	for name, n := range f.n.entries {
		child := &fuseNode{m: f.m, n: n}
		f.AddChild(name, f.NewPersistentInode(ctx, child, attr(n)), false)
		if n.isDir() {
			child.grow(ctx)
		}
	}
}

func attr(n *inode) fs.StableAttr {
	mode := uint32(syscall.S_IFREG)
	if n.isDir() {
		mode = syscall.S_IFDIR
	}
	return fs.StableAttr{Mode: mode, Ino: n.id}
}

func (n *inode) attr(out *fuse.Attr) {
	out.Ino, out.Size, out.Nlink, out.Mode = n.id, uint64(len(n.data)), 1, attr(n).Mode|0o644
	if n.isDir() {
		out.Mode |= 0o111
	}
}

// make adds a file or directory.
func (f *fuseNode) make(ctx context.Context, name string, dir bool, out *fuse.EntryOut) *fs.Inode {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	id := f.m.volume.last + 1
	f.m.do(op{kind: opCreate, node: f.n.id, name: name, made: id, dir: dir})
	child := &fuseNode{m: f.m, n: f.m.volume.nodes[id]}
	child.n.attr(&out.Attr)
	return f.NewPersistentInode(ctx, child, attr(child.n))
}

func (f *fuseNode) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return f.make(ctx, name, false, out), nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *fuseNode) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return f.make(ctx, name, true, out), 0
}

func (f *fuseNode) Unlink(_ context.Context, name string) syscall.Errno {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.n.entries[name] == nil {
		return syscall.EPERM // the mark
	}
	f.m.do(op{kind: opRemove, node: f.n.id, name: name})
	return 0
}

func (f *fuseNode) Rmdir(_ context.Context, name string) syscall.Errno {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if len(f.n.entries[name].entries) > 0 {
		return syscall.ENOTEMPTY
	}
	f.m.do(op{kind: opRemove, node: f.n.id, name: name})
	return 0
}

// Rename works within a directory, which is all the broker does: a cut between two directories has a model of its own.
func (f *fuseNode) Rename(_ context.Context, name string, to fs.InodeEmbedder, toName string, flags uint32) syscall.Errno {
	if to.EmbeddedInode() != f.EmbeddedInode() || flags != 0 {
		return syscall.EXDEV
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if old := f.n.entries[toName]; old != nil && len(old.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	f.m.do(op{kind: opRename, node: f.n.id, name: name, to: toName})
	return 0
}

// Open keeps the kernel's page cache out of it: every read and write is an operation here, as the process made it.
func (f *fuseNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *fuseNode) Read(_ context.Context, _ fs.FileHandle, dest []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return fuse.ReadResultData(dest[:copy(dest, f.n.data[min(at, int64(len(f.n.data))):])]), 0
}

func (f *fuseNode) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.fails(failedWrites) {
		if data = data[:len(data)/2]; len(data) == 0 {
			return 0, syscall.ENOSPC
		}
		f.m.do(op{kind: opWrite, node: f.n.id, at: at, data: append([]byte(nil), data...)})
		return 0, syscall.ENOSPC
	}
	f.m.do(op{kind: opWrite, node: f.n.id, at: at, data: append([]byte(nil), data...)})
	return uint32(len(data)), 0
}

func (f *fuseNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.attr(&out.Attr)
	return 0
}

func (f *fuseNode) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		f.m.do(op{kind: opTruncate, node: f.n.id, at: int64(size)})
	}
	f.n.attr(&out.Attr)
	return 0
}

// Fsync is fsync(2) and fdatasync(2) of files and directories alike.
func (f *fuseNode) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	o := op{kind: opSync, node: f.n.id, failed: f.m.fails(f.m.syncsPerFault)}
	if f.n.isDir() {
		o.kind = opSyncDir
	}
	f.m.do(o)
	if o.failed {
		return syscall.EIO
	}
	return 0
}

// Flush is close(2), which promises nothing.
func (f *fuseNode) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

func (f *fuseNode) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.Blocks, out.Bfree, out.Bavail = block, block, 1<<20, 1<<19, 1<<19
	return 0
}

// markNode is the file whose writes are marks.
type markNode struct {
	fs.Inode
	m *mount
}

var (
	_ fs.NodeOpener    = (*markNode)(nil)
	_ fs.NodeWriter    = (*markNode)(nil)
	_ fs.NodeFlusher   = (*markNode)(nil)
	_ fs.NodeSetattrer = (*markNode)(nil)
)

func (f *markNode) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *markNode) Write(_ context.Context, _ fs.FileHandle, data []byte, _ int64) (uint32, syscall.Errno) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.do(op{kind: opMark, data: append([]byte(nil), data...)})
	if f.m.faults != nil && f.m.faulty(data) {
		f.m.broken = true
	}
	return uint32(len(data)), 0
}

func (f *markNode) Flush(context.Context, fs.FileHandle) syscall.Errno { return 0 }

func (f *markNode) Setattr(context.Context, fs.FileHandle, *fuse.SetAttrIn, *fuse.AttrOut) syscall.Errno {
	return 0
}
