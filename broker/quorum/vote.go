package quorum

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"

	"millrace/broker/disk"
)

var syncVote = disk.NewPoint("quorum.vote")

// The vote file has two slots, each in a block of its own; the older one is overwritten in place, so that a torn write
// leaves the newer one, and a full disk cannot stop an election. A slot is {CRC32C of the rest, "MRVT", sequence u64,
// term u64, vote term u64, candidate length u8, candidate, cluster id length u8, cluster id}, padded with zeros.
const (
	voteName    = "vote"
	voteMagic   = "MRVT"
	voteSlot    = 4096
	voteText    = 255
	voteContent = 4 + 4 + 8 + 8 + 8 + 1 + voteText + 1 + voteText
)

// vote is what a voter must not forget.
type vote struct {
	sequence  uint64
	term      uint64
	votedTerm uint64
	candidate string
	cluster   string
}

// voteStore is raft's stable store. Safe for concurrent use.
//
// Raft panics when a term cannot be saved. So a term the disk refused is kept in memory, and what depends on it, a vote
// or an entry of the log, is refused until it is durable (flush): the term alone promises nothing to anybody. Nor does a
// vote that nobody else counts; and a candidate that cannot vote for itself would do nothing for a whole timeout.
type voteStore struct {
	// alone: this is the only voter.
	alone bool
	// failed is told about every write that failed. nil: raft does not run yet, and a term that cannot be saved is an error.
	failed func(error)

	mu   sync.Mutex
	file disk.File
	// now is durable and lies in slot; want is what raft has set. They differ only after a failed write.
	now, want vote
	slot      int64
}

var _ raft.StableStore = (*voteStore)(nil)

// openVote opens the vote file. made is true when there was none, or an empty one that a power cut left; the caller then
// syncs the directory. damaged is true when there was one and no slot of it is whole.
func openVote(fs disk.FS, dir string) (s *voteStore, made, damaged bool, err error) {
	name := filepath.Join(dir, voteName)
	f, err := fs.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, false, false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	b, size, err := readFile(fs, name, voteSlot+voteContent)
	if err != nil {
		return nil, false, false, err
	}
	b = append(b, make([]byte, voteSlot+voteContent-len(b))...)
	s = &voteStore{file: f, slot: 1}
	whole := false
	for slot := range int64(2) {
		v, ok := decodeVote(b[slot*voteSlot:][:voteContent])
		if ok && (!whole || v.sequence > s.now.sequence) {
			s.now, s.slot, whole = v, slot, true
		}
	}
	s.want = s.now
	if whole {
		// A process that was killed may have left it in the page cache only; the slot before it is overwritten next.
		return s, false, false, errors.Join(s.write(s.slot, s.now), f.Sync(syncVote))
	}
	made = size < int64(len(b)) || bytes.Count(b, []byte{0}) == len(b)
	// Both slots take their blocks now, while there is space.
	return s, made, !made, errors.Join(s.write(0, vote{}), s.write(1, vote{}), f.Sync(syncVote))
}

func decodeVote(b []byte) (v vote, ok bool) {
	if string(b[4:8]) != voteMagic || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return vote{}, false
	}
	v.sequence = binary.BigEndian.Uint64(b[8:])
	v.term = binary.BigEndian.Uint64(b[16:])
	v.votedTerm = binary.BigEndian.Uint64(b[24:])
	text := b[32:]
	v.candidate = string(text[1 : 1+int(text[0])])
	text = text[1+voteText:]
	v.cluster = string(text[1 : 1+int(text[0])])
	return v, true
}

func (s *voteStore) write(slot int64, v vote) error {
	b := make([]byte, voteContent)
	copy(b[4:], voteMagic)
	binary.BigEndian.PutUint64(b[8:], v.sequence)
	binary.BigEndian.PutUint64(b[16:], v.term)
	binary.BigEndian.PutUint64(b[24:], v.votedTerm)
	text := b[32:]
	text[0] = byte(copy(text[1:1+voteText], v.candidate))
	text = text[1+voteText:]
	text[0] = byte(copy(text[1:1+voteText], v.cluster))
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	_, err := s.file.WriteAt(b, slot*voteSlot)
	return err
}

// update changes the vote durably. After an error the old one holds; a lone voter's waits in memory instead.
func (s *voteStore) update(change func(*vote)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.want
	change(&s.want)
	if len(s.want.candidate) > voteText || len(s.want.cluster) > voteText {
		s.want = before
		return fmt.Errorf("vote: names above %d bytes", voteText)
	}
	err := s.save()
	if err == nil || s.alone {
		return nil
	}
	s.want = before
	return err
}

// flush makes a term durable that the disk refused before.
func (s *voteStore) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.save()
}

// save writes what is wanted, unless it is durable already: raft repeats itself at every start, and flash is not written
// for that. After a failed write the same slot is written again; the other one is whole.
func (s *voteStore) save() error {
	if s.want == s.now {
		return nil
	}
	next := s.want
	next.sequence = s.now.sequence + 1
	slot := 1 - s.slot
	err := s.write(slot, next)
	if err == nil {
		err = s.file.Sync(syncVote)
	}
	if err != nil {
		if s.failed != nil {
			s.failed(err)
		}
		return fmt.Errorf("save vote: %w", err)
	}
	s.now, s.want, s.slot = next, next, slot
	return nil
}

func (s *voteStore) load() vote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

// The keys raft uses; there are no others.
const (
	keyTerm      = "CurrentTerm"
	keyVotedTerm = "LastVoteTerm"
	keyCandidate = "LastVoteCand"
)

func unknownKey(key []byte) error { return fmt.Errorf("vote store: raft has a new key %q", key) }

// Set implements raft.StableStore.
func (s *voteStore) Set(key, val []byte) error {
	if string(key) != keyCandidate {
		return unknownKey(key)
	}
	return s.update(func(v *vote) { v.candidate = string(val) })
}

// Get implements raft.StableStore.
func (s *voteStore) Get(key []byte) ([]byte, error) {
	if string(key) != keyCandidate {
		return nil, unknownKey(key)
	}
	return []byte(s.load().candidate), nil
}

// SetUint64 implements raft.StableStore.
func (s *voteStore) SetUint64(key []byte, val uint64) error {
	switch string(key) {
	case keyTerm:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.want.term = val
		if err := s.save(); err != nil && s.failed == nil {
			return err
		}
		return nil // see voteStore
	case keyVotedTerm:
		return s.update(func(v *vote) { v.votedTerm = val })
	}
	return unknownKey(key)
}

// GetUint64 implements raft.StableStore.
func (s *voteStore) GetUint64(key []byte) (uint64, error) {
	switch string(key) {
	case keyTerm:
		return s.load().term, nil
	case keyVotedTerm:
		return s.load().votedTerm, nil
	}
	return 0, unknownKey(key)
}

// Close closes the file; every update is durable already.
func (s *voteStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}
