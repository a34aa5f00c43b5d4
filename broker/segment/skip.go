package segment

import (
	"encoding/binary"
	"sync"
)

// skipPages is how many pages of a topic index one Skip looks at: in the order of a GiB of log.
const skipPages = 256

// pagePool has the memory of Skip.
var pagePool = sync.Pool{New: func() any { return new([topicPage]byte) }}

// Skip is the first offset at or after the given one that may have something wanted, as far as the topic index knows: no
// record between the two has a wanted topic. Where that is not known it is the given offset. more says that it was looked
// no further for the time it takes: the offset may have nothing wanted either, and the next call goes on from there.
func (s *Segment) Skip(offset int64, w *Wanted) (next int64, more bool) {
	buf := pagePool.Get().(*[topicPage]byte)
	defer pagePool.Put(buf)
	offset = max(offset, s.base)

	// The page that is being filled is in memory; those before it are in the file.
	s.mu.Lock()
	t := s.topics
	number, inMemory := int64(0), 0
	if t != nil {
		number, inMemory = t.number, copy(buf[:], t.page)
	}
	s.mu.Unlock()
	f, pages, err := s.openTopics()
	if err != nil {
		return offset, false
	}
	if f != nil {
		defer s.handles.release(f)
	}
	if t != nil {
		pages = min(pages, number)
	}
	if inMemory > pageHeader {
		if first := int64(binary.BigEndian.Uint32(buf[pageHeader:])); s.base+first <= offset {
			return s.skip(offset, w, buf[pageHeader:inMemory])
		}
	}
	if f == nil {
		return offset, false
	}
	var key [entryHeader]byte
	at, err := floorEntry(pages, func(i int64) (bool, error) {
		_, err := f.file.ReadAt(key[:], i*topicPage+pageHeader)
		return s.base+int64(binary.BigEndian.Uint32(key[:])) <= offset, err
	})
	if err != nil || at < 0 {
		return offset, false
	}
	for i := at; i < pages; i++ {
		if i == at+skipPages {
			return offset, true
		}
		used, err := readPage(f, i, buf[:])
		if err != nil || used == 0 {
			return offset, false
		}
		var wanted bool
		if offset, wanted = s.skipPage(offset, w, buf[pageHeader:used]); wanted {
			return offset, false
		}
	}
	// Behind the last page of the file: the one in memory, if it goes on there.
	if inMemory > pageHeader {
		s.mu.Lock()
		if s.topics == t && t.number == pages {
			inMemory = copy(buf[:], t.page)
		} else {
			inMemory = pageHeader
		}
		s.mu.Unlock()
		return s.skip(offset, w, buf[pageHeader:max(inMemory, pageHeader)])
	}
	return offset, false
}

func (s *Segment) skip(offset int64, w *Wanted, entries []byte) (int64, bool) {
	offset, _ = s.skipPage(offset, w, entries)
	return offset, false
}

// skipPage is Skip within the entries of a page. found says that the offset has to be read; without it the log may go on
// with nothing wanted in the next page.
func (s *Segment) skipPage(offset int64, w *Wanted, entries []byte) (next int64, found bool) {
	confirmed := false
	for rest := entries; len(rest) > 0; {
		e, after, err := nextEntry(rest)
		if err != nil {
			return offset, true
		}
		rest = after
		first, end := s.base+e.first, s.base+e.next
		if end <= offset {
			continue
		}
		if first > offset {
			return offset, true
		}
		if !confirmed {
			last := e
			for tail := rest; len(tail) > 0; {
				if last, tail, err = nextEntry(tail); err != nil {
					return offset, true
				}
			}
			if _, confirmed = s.confirms(last); !confirmed {
				return offset, true
			}
		}
		if e.may(w) {
			if first == offset && s.starts(e.from, offset) {
				s.leave(hint{offset: first, pos: e.from, set: true})
			}
			return offset, true
		}
		offset = end
	}
	return offset, false
}
