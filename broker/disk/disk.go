// Package disk is the door to the filesystem. Everything durable goes through an FS that is handed in, so a test can
// lose, refuse or reorder what was not synced, and so that every sync in the program has a name.
package disk

import (
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// FS is a filesystem as Millrace uses one. Names are ordinary paths. All methods are safe for concurrent use.
type FS interface {
	// OpenFile is os.OpenFile.
	OpenFile(name string, flag int, perm os.FileMode) (File, error)
	// MkdirAll is os.MkdirAll. The caller syncs the parent of what it made.
	MkdirAll(name string, perm os.FileMode) error
	// Rename is os.Rename. It is durable only after SyncDir of the directories involved.
	Rename(oldName, newName string) error
	// Remove is os.Remove: one file or one empty directory.
	Remove(name string) error
	// ReadDir is os.ReadDir: entries sorted by name.
	ReadDir(name string) ([]os.DirEntry, error)
	// Stat is os.Stat.
	Stat(name string) (os.FileInfo, error)
	// SyncDir makes the directory's entries durable: creations, removals and renames in it.
	SyncDir(name string, point Point) error
	// Usage tells the space of the filesystem that holds name.
	Usage(name string) (Usage, error)
}

// File is one open file. Positions are explicit; there is no shared file offset to fight over.
// All methods are safe for concurrent use except Close.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name is the path the file was opened by.
	Name() string
	// Stat is (*os.File).Stat.
	Stat() (os.FileInfo, error)
	// Truncate sets the file's size in bytes. It is durable only after Sync.
	Truncate(size int64) error
	// Sync makes the file's bytes and size durable (fdatasync). After an error nothing unsynced on this
	// handle may be trusted: the kernel has marked the pages clean.
	Sync(point Point) error
	// Fd is the descriptor, for sendfile. It is valid until Close.
	Fd() uintptr
}

// Starter is what a File may be beside. StartSync has the device begin to take what is not synced yet, and waits for
// nothing it can help. It promises nothing and has no point's name: what it meets, the Sync that follows reports.
type Starter interface{ StartSync() }

// Dated is what a File may be beside. SetModified sets its modification time, durable with the next Sync at the latest
// where the filesystem does that.
type Dated interface{ SetModified(at time.Time) error }

// Allocator is what a File may be beside. Allocate has the filesystem keep space for the first size bytes, so that writing
// there does not meet a full disk; what the file holds, and its size, stay. Truncate gives the space back. A filesystem
// that cannot returns errors.ErrUnsupported.
type Allocator interface{ Allocate(size int64) error }

// Owned is what a File may be beside. SetOwner gives the file, or a directory that was opened to be read, to a user and a
// group, and returns when that is durable: Sync leaves it out. It is root's to do.
type Owned interface {
	SetOwner(uid, gid int, point Point) error
}

// Usage is the space of a filesystem, in bytes.
type Usage struct {
	Total int64
	Free  int64 // available to an ordinary user
}

// Point names one place in the code that syncs. The power-cut tests switch points off one at a time and demand that
// a record is lost: a sync nobody misses is either useless or untested.
type Point string

var points struct {
	sync.Mutex
	names []Point
}

// NewPoint declares a sync point, once, in a package variable: `var syncCommit = disk.NewPoint("journal.commit")`.
// It panics on a name used before.
func NewPoint(name string) Point {
	points.Lock()
	defer points.Unlock()
	if slices.Contains(points.names, Point(name)) {
		panic("disk: sync point " + name + " declared twice")
	}
	points.names = append(points.names, Point(name))
	return Point(name)
}

// Points lists every declared sync point of the linked program, sorted.
func Points() []Point {
	points.Lock()
	defer points.Unlock()
	return slices.Sorted(slices.Values(points.names))
}
