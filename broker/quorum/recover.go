package quorum

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"millrace/broker/catalog"
	"millrace/broker/disk"
)

var syncCreate = disk.NewPoint("quorum.create")

const logDir = "log"

// stores are what raft keeps on the disk, recovered.
type stores struct {
	votes     *voteStore
	snapshots *snapshotStore
	log       *logStore
	image     *catalog.Image // of the newest snapshot
	// goal is the index of the last command in the log that is not in the snapshot, 0 when there is none.
	goal   uint64
	report Report
	// failures holds the last write of log or vote that failed, until somebody takes it.
	failures chan error
}

// recoverStores opens a quorum directory, whatever state it is in.
//
//   - A torn tail of the log is cut: nothing in it was confirmed.
//   - A damaged newest snapshot is set aside: the older one and the log, which is kept back to it, say the same.
//   - A log with a hole (a damaged or missing entry with whole ones behind it) cannot be raft's log any more. The best
//     image is made of what is left, the newest whole snapshot and every whole command behind it, and becomes a new
//     snapshot; the damaged log is set aside. Only what the damage touched is lost, and the report says so.
//   - With nothing left, the catalog begins empty and the report says so.
//
// Whole bytes of a newer version are never dropped: they are an error (catalog.ErrNewer).
func recoverStores(cfg *Config) (_ *stores, err error) {
	fs := cfg.FS
	st := &stores{failures: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	path := filepath.Join(cfg.Dir, logDir)
	if err := fs.MkdirAll(path, 0o750); err != nil {
		return nil, err
	}
	votes, made, damaged, err := openVote(fs, cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open vote: %w", err)
	}
	st.votes = votes
	// Also when nothing is new: the process that made it may have been killed before this.
	if err := errors.Join(fs.SyncDir(cfg.Dir, syncCreate), fs.SyncDir(filepath.Dir(cfg.Dir), syncCreate)); err != nil {
		return nil, err
	}
	if damaged {
		st.report.damage("the vote file is damaged; the term is taken from the log")
	}
	if err := st.checkCluster(cfg.ClusterID); err != nil {
		return nil, err
	}

	var sentences []string
	if st.snapshots, st.image, sentences, err = openSnapshots(fs, cfg.Dir); err != nil {
		return nil, err
	}
	st.report.Damage = append(st.report.Damage, sentences...)
	covered, term := uint64(0), uint64(0)
	if meta := st.snapshots.newest(); meta != nil {
		covered, term = meta.Index, meta.Term
	} else {
		st.image = &catalog.Image{}
	}

	// One pass over the log checks it and, in case it has holes, makes the image that can be saved of it.
	saved, lastTerm := replay{covered: covered, image: st.image}, term
	sc, err := scanLog(fs, path, covered, func(l *raft.Log) error {
		lastTerm = max(lastTerm, l.Term)
		return saved.apply(l)
	})
	if err != nil {
		return nil, err
	}
	st.goal = saved.last
	st.report.Torn = sc.torn
	st.report.Damage = append(st.report.Damage, sc.damage...)
	st.report.Damage = append(st.report.Damage, saved.refused...)
	nothing := covered == 0 && sc.entries == 0
	// Raft sets the term before the first entry is written, so a term without entries is no lost catalog, a second
	// election is.
	if made && !nothing {
		st.report.damage("the vote file is missing; the term is taken from the log")
	}
	st.report.Fresh = nothing && votes.load().term <= 1 && len(st.report.Damage) == 0
	st.report.Lost = nothing && !st.report.Fresh
	if term := max(lastTerm, votes.load().term); term != votes.load().term {
		if err := votes.update(func(v *vote) { v.term = term }); err != nil {
			return nil, err
		}
	}

	switch {
	case len(sc.damage) > 0:
		if err := st.salvage(cfg, path, saved.image, max(sc.last, covered), lastTerm); err != nil {
			return nil, fmt.Errorf("save what is left of the catalog: %w", err)
		}
		sc = &scanned{cut: make(map[string]int64)}
	case sc.last < covered:
		// Nothing in it is needed, and raft goes on behind the snapshot.
		st.report.damage(sc.short(covered))
		for _, seg := range sc.segments {
			sc.remove = append(sc.remove, segmentName(seg.first))
		}
		sc.segments = nil
	}
	if st.log, err = openLog(fs, path, sc, cfg.Logger); err != nil {
		return nil, err
	}
	// From here on raft decides, and what it cannot save waits in memory.
	votes.failed, votes.alone = st.fail, true // Open refuses more voters
	st.log.ready, st.log.failed = votes.flush, st.fail
	st.log.Keep(st.snapshots.covered())
	st.snapshots.dropped = st.log.Keep
	return st, nil
}

// replay makes the image of a log's commands as the machine did.
type replay struct {
	// covered is the index of the last entry that image has already; last is that of the last command behind it, 0 for none.
	covered, last uint64
	image         *catalog.Image
	// refused are sentences about commands that were damaged before they became entries.
	refused []string
}

func (r *replay) apply(l *raft.Log) error {
	if l.Index <= r.covered || l.Type != raft.LogCommand {
		return nil
	}
	r.last = l.Index
	c, err := catalog.Decode(l.Data)
	switch {
	case errors.Is(err, catalog.ErrCorrupt):
		// The machine could not apply it either, and its proposer was told.
		r.refused = append(r.refused, fmt.Sprintf("catalog command %d was damaged before it was written, and was refused then", l.Index))
		return nil
	case err != nil:
		return fmt.Errorf("catalog command %d: %w", l.Index, err)
	}
	if next, err := catalog.Apply(r.image, c); err == nil { // a command refused then is refused now
		r.image = next
	}
	return nil
}

// fail notes a failed write for those who wait for its outcome elsewhere.
func (st *stores) fail(err error) {
	select {
	case st.failures <- err:
	default:
	}
}

func (r *Report) damage(sentence string) { r.Damage = append(r.Damage, sentence) }

// checkCluster ties the directory to a cluster, once.
func (st *stores) checkCluster(id string) error {
	have := st.votes.load().cluster
	switch {
	case id == "" || have == id:
		return nil
	case have != "":
		return fmt.Errorf("the catalog belongs to cluster %s, this board to %s: %w", have, id, ErrForeign)
	}
	return st.votes.update(func(v *vote) { v.cluster = id })
}

// salvage makes img the newest snapshot and sets the damaged log aside. A power cut at any step leaves a directory that
// the next start recovers to the same image.
func (st *stores) salvage(cfg *Config, path string, img *catalog.Image, index, term uint64) error {
	if newest := st.snapshots.newest(); index > 0 && (newest == nil || newest.Index < index) {
		data, err := img.Encode()
		if err != nil {
			return err
		}
		meta := &raft.SnapshotMeta{
			Version: 1, ID: snapshotName(index, term), Index: index, Term: term,
			Configuration: voters(cfg.NodeID), ConfigurationIndex: index, Size: int64(len(data)),
		}
		if err := st.snapshots.save(meta, data); err != nil {
			return err
		}
	}
	st.image, st.goal = img, 0
	aside := path + damagedSuffix
	old, err := cfg.FS.ReadDir(aside)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil { // one damaged log is kept, the last one
		for _, f := range old {
			if err := cfg.FS.Remove(filepath.Join(aside, f.Name())); err != nil {
				return err
			}
		}
		if err := cfg.FS.Remove(aside); err != nil {
			return err
		}
	}
	if err := cfg.FS.Rename(path, aside); err != nil {
		return err
	}
	if err := cfg.FS.MkdirAll(path, 0o750); err != nil {
		return err
	}
	st.report.damage("the damaged log is kept in " + aside)
	return cfg.FS.SyncDir(cfg.Dir, syncCreate)
}

// bootstrap writes the first entry of a new log: who votes.
func (st *stores) bootstrap(node int32) error {
	last, err := st.log.LastIndex()
	if err != nil || last > 0 || st.snapshots.newest() != nil {
		return err
	}
	if err := st.votes.update(func(v *vote) { v.term = max(v.term, 1) }); err != nil {
		return err
	}
	return st.log.StoreLog(&raft.Log{
		Index: 1, Term: st.votes.load().term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(voters(node)),
	})
}

func (st *stores) close() error {
	var err error
	if st.log != nil {
		err = st.log.Close()
	}
	if st.votes != nil {
		err = errors.Join(err, st.votes.Close())
	}
	return err
}

// voters is the configuration of a quorum of one.
func voters(node int32) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: serverID(node), Address: serverAddress(node)}}}
}

func serverID(node int32) raft.ServerID           { return raft.ServerID(fmt.Sprint(node)) }
func serverAddress(node int32) raft.ServerAddress { return raft.ServerAddress(fmt.Sprint(node)) }
