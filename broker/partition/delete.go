package partition

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"millrace/broker/catalog"
	"millrace/broker/disk"
	"millrace/broker/journal"
)

// The suffixes Kafka gives to directories on their way out, behind `<topic>-<p>.<unique hex>`.
const (
	deleteSuffix = "-delete" // the journal said so; unlinked at once, or by the next start
	straySuffix  = "-stray"  // set aside, never removed by us
)

// DeleteTopic deletes every partition of the topic. The deletion is journalled and synced before a file is touched; when
// it returns nil the topic cannot come back. A topic that is not there is no error. Spans that are being read stay
// readable. Blocks for a commit.
func (s *Store) DeleteTopic(id catalog.TopicID) error {
	s.creating.Lock() // one that is offline must not come back meanwhile
	defer s.creating.Unlock()
	var doomed []*Partition
	for p := range s.All() {
		if p.topic.ID == id {
			doomed = append(doomed, p)
		}
	}
	var absent []key
	name := ""
	for k, o := range s.offline {
		if k.topic == id {
			absent, name = append(absent, k), o.topic.Name
		}
	}
	for _, p := range doomed {
		name = p.topic.Name
	}
	if len(doomed)+len(absent) == 0 {
		return s.syncTopics() // of one that could not be made something may be left under a name that is not durable
	}
	slices.SortFunc(doomed, func(a, b *Partition) int { return cmp.Compare(a.index, b.index) }) // one order of locks
	for _, p := range doomed {
		p.retaining.Lock()
		p.mu.Lock()
		failed := p.sealLocked()
		p.gone.Store(true)
		p.mu.Unlock()
		failed.refuse()
	}
	s.deleting.RLock()
	defer s.deleting.RUnlock()
	// Until the directories have another name nothing that removes or writes files by name may run.
	defer func() {
		for _, p := range doomed {
			p.retaining.Unlock()
		}
	}()
	if err := s.stageDelete(id); err != nil {
		for _, p := range doomed {
			p.mu.Lock()
			p.gone.Store(false)
			p.mu.Unlock()
		}
		return fmt.Errorf("delete topic %s: %w", name, err)
	}
	s.touched.Store(true)
	s.mu.Lock()
	for _, p := range doomed {
		delete(s.partitions, key{id, p.index})
	}
	for _, k := range absent {
		delete(s.offline, k)
	}
	s.mu.Unlock()
	if err := s.unlink(doomed, absent, name); err != nil {
		// The topic is deleted all the same; what is left goes with the next start.
		s.log.Warn("files of a deleted topic are left", "topic", name, "err", err)
	}
	return nil
}

func (s *Store) stageDelete(id catalog.TopicID) error {
	if err := s.admitBytes(entryBytes, 1, true, s.nowMS()); err != nil {
		return err
	}
	defer s.pending(-entryBytes, -1)
	result := make(chan error, 1)
	s.journal.Stage([]journal.Entry{{Kind: journal.TopicDeleted, Topic: id, Partition: -1}}, func(err error) { result <- err })
	return <-result
}

// unlink removes the directories of deleted partitions, under other names first: the old ones may be taken at once by
// new topics. No file goes before the new names are durable: a directory that came back under its old name, without its
// metadata, would pass for the new topic's.
func (s *Store) unlink(doomed []*Partition, absent []key, name string) error {
	var errs []error
	var dirs []string
	for _, k := range absent {
		dir := filepath.Join(s.topics, fmt.Sprintf("%s-%d", name, k.index))
		if _, err := s.cfg.FS.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			dirs = append(dirs, dir)
		}
	}
	for _, p := range doomed {
		s.producers.Add(-int64(len(p.producers.byID)))
		dirs = append(dirs, p.dir)
		p.state.Lock()
		pieces := p.pieces
		p.state.Unlock()
		errs = append(errs, closePieces(pieces))
	}
	errs = append(errs, s.discard(dirs))
	for _, k := range absent {
		errs = append(errs, s.removeKept(s.keptPath(k)))
	}
	return errors.Join(errs...)
}

// discard removes partitions' directories for good.
func (s *Store) discard(dirs []string) error {
	var errs []error
	var left []string
	for _, dir := range dirs {
		to := s.unusedName(dir, deleteSuffix)
		err := s.cfg.FS.Rename(dir, to)
		if err == nil {
			left = append(left, to)
		}
		errs = append(errs, err)
	}
	s.newTopics.Store(true)
	if err := s.syncTopics(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, dir := range left {
		errs = append(errs, removeTree(s.cfg.FS, dir))
	}
	return errors.Join(errs...)
}

// unusedName is dir with a unique number and suffix, as Kafka names directories on their way out.
func (s *Store) unusedName(dir, suffix string) string {
	for {
		to := fmt.Sprintf("%s.%016x%s", dir, uint64(s.nowMS())<<16|s.deletes.Add(1)&0xffff, suffix)
		if _, err := s.cfg.FS.Stat(to); err != nil { // free, or a disk that cannot say: the rename will tell
			return to
		}
	}
}

// removeTree removes a partition's directory and the files in it.
func removeTree(fsys disk.FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.IsDir() {
			errs = append(errs, removeTree(fsys, name))
		} else {
			errs = append(errs, fsys.Remove(name))
		}
	}
	return errors.Join(append(errs, fsys.Remove(dir))...)
}

// splitDir takes a directory's name apart, `<topic>-<p>`; false when it is not one.
func splitDir(name string) (topic string, index int32, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 || i+1 == len(name) || len(name)-i > 11 {
		return "", 0, false
	}
	n := int64(0)
	for _, c := range name[i+1:] {
		if c < '0' || c > '9' {
			return "", 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n > 1<<31-1 || catalog.ValidTopicName(name[:i]) != nil {
		return "", 0, false
	}
	return name[:i], int32(n), true
}
