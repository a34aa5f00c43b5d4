package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"millrace/broker/record"
)

// The topic index says of stretches of a log, spans of about 64 KiB, which MQTT topics their records may have, so that
// who looks for a few topics passes the others by. It is derived and never synced. What it does not speak of has to be
// read, and so has what it says without being confirmed: by a page's checksum, and by the log, which must still have, in
// its place, the batch that the page's last span ends with. Logs change only at their ends, so all before it is as it was.
//
// The file is pages of 4 KiB, big-endian, in the order of offsets, the last one filled as the log grows:
//
//	0  4  CRC32C of the rest of the page
//	4  2  version, 1
//	6  2  bytes of the page that are used
//	8     entries
//
// Entry, offsets less the segment's base:
//
//	 0  4  offset of the span's first record
//	 4  4  offset after its last one
//	 8  4  position of its first batch
//	12  4  position of its last batch
//	16  4  CRC32C of that batch's header
//	20  2  number of topics
//	22  2  number of beginnings of topics: their first one, two and three levels where more follow; 0xffff: not known
//	24  2  bytes of the set of topics
//	26  2  bytes of the set of beginnings
//	28     both sets, of hashes (topicset.go)
const (
	topicSpan    = 48 << 10 // a span ends with the batch that makes it so large
	topicPage    = 4 << 10
	topicVersion = 1
	pageHeader   = 8
	entryHeader  = 28

	topicsRoom   = 576 // bytes of a set of topics
	underRoom    = 192 // bytes of a set of beginnings
	underUnknown = 0xffff
)

// topicIndex is the end of a segment's topic index, where it grows. Guarded by Segment.write, what Skip looks at also by mu.
type topicIndex struct {
	number int64  // of the page that is being filled; guarded by mu too
	page   []byte // it, nil before its first entry; guarded by mu too
	saved  int    // bytes of page that are in the file

	// The open span: its records from offset first on to the end of the log at byte end, where the batch at byte last,
	// whose header has the checksum sum, is the last one.
	first, next     int64
	from, last, end int64
	sum             uint32
	unknown         bool // some record does not say what its topic is
	hashes          topicHashes

	off bool // the disk has refused it: nothing is added until the segment is opened or cut again
}

// noteTopics adds what was written at position. A disk that refuses the topic index refuses no records for that: what is
// not written has to be read. write is held.
func (s *Segment) noteTopics(position int64, batches []byte) {
	if t := s.topics; t == nil || !t.off {
		s.topicsFailed(s.addTopics(position, batches))
	}
}

// topicsFailed ends the topic index, where err is not nil, and tells.
func (s *Segment) topicsFailed(err error) {
	if err == nil {
		return
	}
	if s.cfg.TopicsFailed != nil {
		s.cfg.TopicsFailed(err)
	}
	s.mu.Lock()
	s.topics = &topicIndex{off: true, number: math.MaxInt64}
	s.mu.Unlock()
}

func (s *Segment) addTopics(position int64, batches []byte) error {
	t := s.topics
	if t == nil || t.end != position {
		var err error
		if t, err = s.resumeTopics(position, batches); err != nil {
			return err
		}
	}
	for rest := batches; len(rest) > 0; {
		b, after, err := record.Next(rest)
		if err != nil {
			return err
		}
		if err := s.noteTopic(t, b); err != nil {
			return err
		}
		rest = after
	}
	return nil
}

// noteTopic adds the batch at t.end.
func (s *Segment) noteTopic(t *topicIndex, b record.Batch) error {
	if t.from == t.end {
		t.first, t.unknown = b.BaseOffset(), false
		t.hashes.reset()
	}
	t.last, t.next = t.end, b.NextOffset()
	t.end += int64(len(b))
	t.unknown = t.unknown || !t.hashes.add(b)
	if !t.unknown {
		t.sum = record.Castagnoli(b[:record.HeaderSize])
	}
	if t.end-t.from < topicSpan {
		return nil
	}
	return s.closeSpan(t)
}

// closeSpan makes an entry of the open span, if it can, and begins the next one. A full page is written.
func (s *Segment) closeSpan(t *topicIndex) error {
	var entry []byte
	if t.from < t.end && !t.unknown {
		entry = t.entry(s.base)
	}
	if t.from = t.end; entry == nil {
		return nil
	}
	if len(t.page)+len(entry) > topicPage {
		if err := s.savePage(t); err != nil {
			return err
		}
		s.mu.Lock()
		t.number++
		t.page, t.saved = t.page[:pageHeader], 0
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.page == nil {
		t.page = make([]byte, pageHeader, pageHeader+len(entry))
	}
	t.page = append(t.page, entry...)
	return nil
}

// entry is the open span's, nil where it has more topics than there is room for.
func (t *topicIndex) entry(base int64) []byte {
	p, ok := riceBits(len(t.hashes.topics), topicsRoom)
	if !ok {
		return nil
	}
	be := binary.BigEndian
	e := make([]byte, entryHeader, entryHeader+topicsRoom+underRoom)
	be.PutUint32(e, uint32(t.first-base))
	be.PutUint32(e[4:], uint32(t.next-base))
	be.PutUint32(e[8:], uint32(t.from))
	be.PutUint32(e[12:], uint32(t.last))
	be.PutUint32(e[16:], t.sum)
	be.PutUint16(e[20:], uint16(len(t.hashes.topics)))
	e = appendSet(e, t.hashes.topics, p)
	topics := len(e) - entryHeader
	be.PutUint16(e[22:], underUnknown)
	if p, ok := riceBits(len(t.hashes.under), underRoom); ok {
		be.PutUint16(e[22:], uint16(len(t.hashes.under)))
		e = appendSet(e, t.hashes.under, p)
	}
	be.PutUint16(e[24:], uint16(topics))
	be.PutUint16(e[26:], uint16(len(e)-entryHeader-topics))
	return e
}

// savePage writes the page that is being filled, where the file does not have all of it.
func (s *Segment) savePage(t *topicIndex) error {
	if t.saved >= len(t.page) || len(t.page) <= pageHeader {
		return nil
	}
	be := binary.BigEndian
	out := make([]byte, topicPage)
	n := copy(out, t.page)
	be.PutUint16(out[4:], topicVersion)
	be.PutUint16(out[6:], uint16(n))
	be.PutUint32(out, record.Castagnoli(out[4:]))
	if err := s.writeIndex(kindTopic, out, t.number*topicPage); err != nil {
		return err
	}
	t.saved = n
	return nil
}

// SaveTopics writes what of the topic index is in memory alone. Nothing is synced. Whatever is lost has to be read.
func (s *Segment) SaveTopics() {
	s.write.Lock()
	defer s.write.Unlock()
	if s.topics != nil {
		s.topicsFailed(s.savePage(s.topics))
	}
}

// EndTopics is SaveTopics before the segment is closed: also what fills no span yet is written.
func (s *Segment) EndTopics() {
	s.write.Lock()
	defer s.write.Unlock()
	s.sealTopics()
}

// sealTopics ends the topic index with the log. write is held.
func (s *Segment) sealTopics() {
	t := s.topics
	if t == nil {
		return
	}
	err := s.closeSpan(t)
	if err == nil {
		err = s.savePage(t)
	}
	s.dropTopics()
	s.topicsFailed(err)
}

// dropTopics lets go of what is in memory. The next batch finds what the file has.
func (s *Segment) dropTopics() {
	s.mu.Lock()
	s.topics = nil
	s.mu.Unlock()
}

// resumeTopics finds the place where the topic index goes on with the batches at position: what it says of that place and
// those behind it goes, and what a stop has left out before it is made up for, where it is less than two spans.
func (s *Segment) resumeTopics(position int64, batches []byte) (*topicIndex, error) {
	if err := s.cutTopics(position); err != nil {
		return nil, err
	}
	t := &topicIndex{from: position, end: position}
	from, err := s.lastPage(t)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.topics = t
	s.mu.Unlock()
	b, _, err := record.Next(batches)
	if err != nil || from == position || position-from > 2*topicSpan {
		return t, err
	}
	if from == 0 && !new(topicHashes).add(b) {
		return t, nil // not a log of MQTT's
	}
	t.from, t.end = from, from
	valid, err := s.Scan(from, func(b record.Batch, at int64) error {
		if at >= position {
			return io.EOF
		}
		return s.noteTopic(t, b)
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if valid != position || t.end != position { // damage
		t.from, t.end = position, position
	}
	return t, nil
}

// lastPage loads the file's last page into t and returns the position behind the last span in it; 0 where there is none.
func (s *Segment) lastPage(t *topicIndex) (end int64, err error) {
	f, pages, err := s.openTopics()
	if err != nil || f == nil {
		return 0, err
	}
	defer s.handles.release(f)
	if pages == 0 {
		return 0, nil
	}
	page := make([]byte, topicPage)
	used, err := readPage(f, pages-1, page)
	if err != nil {
		return 0, err
	}
	t.number = pages
	if used == 0 {
		return t.end, nil // a bad one: what it spoke of is read
	}
	t.number--
	t.page, t.saved = append([]byte(nil), page[:used]...), used
	var last topicEntry
	for rest := t.page[pageHeader:]; len(rest) > 0; {
		if last, rest, err = nextEntry(rest); err != nil {
			return 0, err
		}
	}
	size, ok := s.confirms(last)
	if !ok {
		t.page, t.saved = nil, 0 // of another log: it is overwritten
		return t.end, nil
	}
	return last.at + size, nil
}

// cutTopics drops what the topic index says of the log from position on. write is held.
func (s *Segment) cutTopics(position int64) error {
	if t := s.topics; t != nil {
		if err := s.savePage(t); err != nil {
			return err
		}
		s.dropTopics()
	}
	f, pages, err := s.openTopics()
	if err != nil || f == nil {
		return err
	}
	defer s.handles.release(f)
	page := make([]byte, topicPage)
	keep := pages
	for ; keep > 0; keep-- {
		used, err := readPage(f, keep-1, page)
		if err != nil {
			return err
		}
		kept := pageHeader
		for rest := page[pageHeader:max(used, pageHeader)]; len(rest) > 0; kept = used - len(rest) {
			var e topicEntry
			if e, rest, err = nextEntry(rest); err != nil || e.at >= position {
				break
			}
		}
		if kept == used {
			break
		}
		if kept > pageHeader {
			t := &topicIndex{number: keep - 1, page: page[:kept]}
			if err := s.savePage(t); err != nil {
				return err
			}
			break
		}
	}
	info, err := f.file.Stat()
	if err != nil || info.Size() == keep*topicPage {
		return err
	}
	return f.file.Truncate(keep * topicPage)
}

// openTopics opens the file; nil where there is none. The caller releases it.
func (s *Segment) openTopics() (f *handle, pages int64, err error) {
	f, err = s.handles.acquire(s, kindTopic, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.file.Stat()
	if err != nil {
		s.handles.release(f)
		return nil, 0, err
	}
	return f, info.Size() / topicPage, nil
}

// readPage reads a page and says how much of it is used; 0 for one that is no good.
func readPage(f *handle, number int64, page []byte) (used int, err error) {
	if _, err := f.file.ReadAt(page[:topicPage], number*topicPage); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	} else if err != nil {
		return 0, nil
	}
	return checkPage(page), nil
}

// checkPage says how much of a page is used; 0 for one that is no good.
func checkPage(page []byte) (used int) {
	be := binary.BigEndian
	used = int(be.Uint16(page[6:]))
	if be.Uint16(page[4:]) != topicVersion || used <= pageHeader || used > topicPage || record.Castagnoli(page[4:topicPage]) != be.Uint32(page) {
		return 0
	}
	return used
}

// topicEntry is an entry. Its slices alias the page.
type topicEntry struct {
	first, next   int64 // offsets less the base
	from, at      int64 // positions of its first and its last batch
	sum           uint32
	topics, under int
	sets          [2][]byte
}

var errTopicEntry = errors.New("bad entry of a topic index")

// nextEntry takes an entry apart.
func nextEntry(p []byte) (e topicEntry, rest []byte, err error) {
	if len(p) < entryHeader {
		return e, nil, errTopicEntry
	}
	be := binary.BigEndian
	e = topicEntry{
		first: int64(be.Uint32(p)), next: int64(be.Uint32(p[4:])), from: int64(be.Uint32(p[8:])), at: int64(be.Uint32(p[12:])),
		sum: be.Uint32(p[16:]), topics: int(be.Uint16(p[20:])), under: int(be.Uint16(p[22:])),
	}
	n, m := int(be.Uint16(p[24:])), int(be.Uint16(p[26:]))
	if p = p[entryHeader:]; n+m > len(p) || e.next <= e.first {
		return e, nil, fmt.Errorf("%w: %d bytes of %d", errTopicEntry, n+m, len(p))
	}
	e.sets = [2][]byte{p[:n], p[n : n+m]}
	return e, p[n+m:], nil
}

// may says whether the span may have something wanted.
func (e *topicEntry) may(w *Wanted) bool {
	p, ok := riceBits(e.topics, topicsRoom)
	if !ok || mayHave(e.sets[0], e.topics, p, w.topics) {
		return true
	}
	if e.under == underUnknown {
		return len(w.under) > 0
	}
	p, ok = riceBits(e.under, underRoom)
	return !ok || mayHave(e.sets[1], e.under, p, w.under)
}

// starts says whether the batch at position starts with offset.
func (s *Segment) starts(position, offset int64) bool {
	head, ok := s.head(position)
	return ok && record.Batch(head[:]).BaseOffset() == offset
}

// head is the header of the batch at position; ok is false where there is none, whatever the disk said: then it is read, and
// says it again.
func (s *Segment) head(position int64) (head [record.HeaderSize]byte, ok bool) {
	f, err := s.handles.acquire(s, kindLog, false)
	if err != nil {
		return head, false
	}
	defer s.handles.release(f)
	if position+record.HeaderSize > s.Size() {
		return head, false
	}
	n, _ := f.file.ReadAt(head[:], position)
	return head, n == len(head)
}

// confirms says whether the log still has the batch that a span ends with, and how large that is.
func (s *Segment) confirms(e topicEntry) (size int64, ok bool) {
	head, ok := s.head(e.at)
	if !ok || record.Castagnoli(head[:]) != e.sum {
		return 0, false
	}
	size, err := record.PeekSize(head[:])
	return size, err == nil && e.at+size <= s.Size() && record.Batch(head[:]).NextOffset() == s.base+e.next
}
