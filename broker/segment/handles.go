package segment

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"millrace/broker/disk"
)

// kind is one of the files of a segment.
type kind uint8

const (
	kindLog kind = iota
	kindIndex
	kindTime
	kindTopic
	kinds
)

var suffixes = [kinds]string{LogSuffix, IndexSuffix, TimeIndexSuffix, TopicIndexSuffix}

// inOrder has the log last: what is left of a removal or a renaming cut short still is a segment.
var inOrder = [kinds]kind{kindIndex, kindTime, kindTopic, kindLog}

// errHandlesClosed is returned for a segment whose Handles are closed.
var errHandlesClosed = errors.New("segment files are closed")

// Handles keeps the open files of all segments that share it to a limit: the one longest unused is closed for the next.
// A log with unsynced bytes stays open until it is synced, because only a descriptor that was open then is told when
// the write-back fails. Those have a limit of their own, eight times as high: past it the oldest is synced early, which
// costs the writer a sync that the checkpoint would have made for many. Files in use are never closed, so the limits are
// passed by as many as are in use at once. Safe for concurrent use.
type Handles struct {
	fs         disk.FS
	limit      int // of files that can be closed at once
	dirtyLimit int // of logs that have to be synced before

	mu     sync.Mutex
	recent list.List // of *handle, most recently used first
	dirty  int       // of them
	closed bool
	failed error // the first failed close of a file nobody waited for; Close returns it
}

// handle is one open file. All fields but file are guarded by Handles.mu.
type handle struct {
	file    disk.File
	segment *Segment
	kind    kind
	refs    int
	writes  uint64 // counts writes; a sync covers those before it began
	dirty   bool   // a log with bytes not synced
	gone    bool   // not in segment.files any more: closed when refs reaches 0
	element *list.Element
}

// dirtyFactor is how many times more logs with unsynced bytes may be open than other files.
const dirtyFactor = 8

// NewHandles bounds the open files to limit, at least one of each kind, and the logs among them that wait for a sync to eight times as
// many, but no more than a quarter of what the process may open.
func NewHandles(fs disk.FS, limit int) *Handles {
	limit = max(limit, int(kinds))
	dirty := dirtyFactor * limit
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil && files.Cur/4 < uint64(dirty) {
		dirty = max(limit, int(files.Cur/4))
	}
	return &Handles{fs: fs, limit: limit, dirtyLimit: dirty}
}

// Open is the number of open files.
func (h *Handles) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recent.Len()
}

// acquire is the segment's open file of a kind, made when create says so; os.ErrNotExist when there is none. The
// caller releases it.
func (h *Handles) acquire(s *Segment, k kind, create bool) (*handle, error) {
	h.mu.Lock()
	if err := h.refuse(s); err != nil {
		h.mu.Unlock()
		return nil, err
	}
	if f := s.files[k]; f != nil {
		f.refs++
		h.recent.MoveToFront(f.element)
		h.mu.Unlock()
		return f, nil
	}
	h.mu.Unlock()

	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	s.naming.RLock()
	file, err := h.fs.OpenFile(s.path(k), flag, 0o644)
	s.naming.RUnlock()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	if err := h.refuse(s); err != nil {
		h.mu.Unlock()
		return nil, errors.Join(err, file.Close())
	}
	if f := s.files[k]; f != nil { // another was quicker
		f.refs++
		h.mu.Unlock()
		h.closeFile(file)
		return f, nil
	}
	f := &handle{file: file, segment: s, kind: k, refs: 1}
	f.element = h.recent.PushFront(f)
	s.files[k] = f
	h.mu.Unlock()
	h.shrink()
	return f, nil
}

// closeFile closes a file that holds nothing unsynced.
func (h *Handles) closeFile(f disk.File) {
	if err := f.Close(); err != nil {
		h.mu.Lock()
		if h.failed == nil {
			h.failed = err
		}
		h.mu.Unlock()
	}
}

// refuse is called with mu held.
func (h *Handles) refuse(s *Segment) error {
	if h.closed || s.closed {
		return fmt.Errorf("%s: %w", s.Path(), errHandlesClosed)
	}
	return nil
}

// release gives back what acquire returned.
func (h *Handles) release(f *handle) {
	h.mu.Lock()
	f.refs--
	last := f.gone && f.refs == 0
	h.mu.Unlock()
	if last {
		h.closeFile(f.file)
	}
}

// setDirty is called with mu held.
func (h *Handles) setDirty(f *handle, dirty bool) {
	switch {
	case f.dirty == dirty:
		return
	case dirty:
		h.dirty++
	default:
		h.dirty--
	}
	f.dirty = dirty
}

// detach takes a handle out of the cache. It reports whether the caller must close the file. mu is held.
func (h *Handles) detach(f *handle) bool {
	h.recent.Remove(f.element)
	h.setDirty(f, false)
	f.segment.files[f.kind] = nil
	f.gone = true
	return f.refs == 0
}

// shrink closes files until the limits hold or all are in use.
func (h *Handles) shrink() {
	for {
		h.mu.Lock()
		var old *handle
		switch {
		case h.recent.Len()-h.dirty > h.limit:
			old = h.oldest(false)
		case h.dirty > h.dirtyLimit:
			old = h.oldest(true)
		}
		switch {
		case old == nil:
			h.mu.Unlock()
			return
		case !old.dirty:
			h.detach(old)
			h.mu.Unlock()
			h.closeFile(old.file)
		default:
			s := old.segment
			h.mu.Unlock()
			// A failure belongs to that segment: it remembers, and its own Sync reports it.
			if s.Sync() != nil {
				h.drop(s, kindLog)
			}
		}
	}
}

// oldest is the handle longest unused, of those that are dirty or of those that are not; nil when all are in use. mu is
// held.
func (h *Handles) oldest(dirty bool) *handle {
	for e := h.recent.Back(); e != nil; e = e.Prev() {
		if f := e.Value.(*handle); f.refs == 0 && f.dirty == dirty {
			return f
		}
	}
	return nil
}

// wrote notes that bytes were written to a log and wait for a sync.
func (h *Handles) wrote(f *handle) {
	h.mu.Lock()
	f.writes++
	if !f.gone {
		h.setDirty(f, true)
	}
	h.mu.Unlock()
}

// pending is how many writes a sync that starts now covers.
func (h *Handles) pending(f *handle) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f.writes
}

// synced notes that the first writes of a log are durable.
func (h *Handles) synced(f *handle, writes uint64) {
	h.mu.Lock()
	if f.writes == writes {
		h.setDirty(f, false)
	}
	h.mu.Unlock()
}

// drop closes the segment's file of a kind, at once or when the last user releases it.
func (h *Handles) drop(s *Segment, k kind) {
	h.mu.Lock()
	f := s.files[k]
	if f == nil || !h.detach(f) {
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	h.closeFile(f.file)
}

// closeSegment closes all files of s for good.
func (h *Handles) closeSegment(s *Segment) {
	h.mu.Lock()
	s.closed = true
	h.mu.Unlock()
	for k := range kinds {
		h.drop(s, k)
	}
}

// Close closes every file that is not in use, and the others when they are released. Nothing is synced. It returns
// the first error any close of the cache's life had.
func (h *Handles) Close() error {
	h.mu.Lock()
	h.closed = true
	var files []disk.File
	for h.recent.Len() > 0 {
		if f := h.recent.Front().Value.(*handle); h.detach(f) {
			files = append(files, f.file)
		}
	}
	h.mu.Unlock()
	for _, f := range files {
		h.closeFile(f)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}
