package segment

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"millrace/broker/disk"
)

// kind is one of the three files of a segment.
type kind uint8

const (
	kindLog kind = iota
	kindIndex
	kindTime
	kinds
)

var suffixes = [kinds]string{LogSuffix, IndexSuffix, TimeIndexSuffix}

// errHandlesClosed is returned for a segment whose Handles are closed.
var errHandlesClosed = errors.New("segment files are closed")

// Handles keeps the open files of all segments that share it to a limit: the one longest unused is closed for the next.
// A log with unsynced bytes stays open until it is synced, because only a descriptor that was open then is told when
// the write-back fails; when nothing else can go, the oldest of those is synced early. Files in use are never closed,
// so the limit is passed by as many as are in use at once. Safe for concurrent use.
type Handles struct {
	fs    disk.FS
	limit int

	mu     sync.Mutex
	recent list.List // of *handle, most recently used first
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

// NewHandles bounds the open files to limit, at least 3.
func NewHandles(fs disk.FS, limit int) *Handles {
	return &Handles{fs: fs, limit: max(limit, int(kinds))}
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
	file, err := h.fs.OpenFile(filepath.Join(s.dir, fileName(s.base, suffixes[k])), flag, 0o644)
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

// detach takes a handle out of the cache. It reports whether the caller must close the file. mu is held.
func (h *Handles) detach(f *handle) bool {
	h.recent.Remove(f.element)
	f.segment.files[f.kind] = nil
	f.gone = true
	return f.refs == 0
}

// shrink closes files until the limit holds or all are in use.
func (h *Handles) shrink() {
	for {
		h.mu.Lock()
		if h.recent.Len() <= h.limit {
			h.mu.Unlock()
			return
		}
		var clean, dirty *handle
		for e := h.recent.Back(); e != nil && clean == nil; e = e.Prev() {
			switch f := e.Value.(*handle); {
			case f.refs > 0:
			case !f.dirty:
				clean = f
			case dirty == nil:
				dirty = f
			}
		}
		switch {
		case clean != nil:
			h.detach(clean)
			h.mu.Unlock()
			h.closeFile(clean.file)
		case dirty != nil:
			s := dirty.segment
			h.mu.Unlock()
			// A failure belongs to that segment: it remembers, and its own Sync reports it.
			if s.Sync() != nil {
				h.drop(s, kindLog)
			}
		default:
			h.mu.Unlock()
			return
		}
	}
}

// wrote notes that bytes were written to a log and wait for a sync.
func (h *Handles) wrote(f *handle) {
	h.mu.Lock()
	f.writes++
	f.dirty = true
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
		f.dirty = false
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
