package powercut

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// opKind is what a program asked the filesystem for.
type opKind uint8

const (
	opCreate opKind = iota
	opRemove
	opRename
	opWrite
	opTruncate
	opSync
	opSyncDir
	opMark // nothing of the filesystem's: the workload's word to whoever reads the log
)

// op is one change of a volume, or a sync, or a mark.
type op struct {
	kind   opKind
	node   uint64 // the file or directory it is done to; of names, the directory
	made   uint64 // opCreate: the new node
	dir    bool   // opCreate: the new node is a directory
	name   string
	to     string // opRename: the new name
	at     int64  // opWrite: position; opTruncate: size
	data   []byte // opWrite, opMark
	failed bool   // a sync that returned an error
}

// String is for a reader of -steps.
func (o op) String() string {
	switch o.kind {
	case opMark:
		return string(o.data)
	case opWrite:
		return fmt.Sprintf("write %d: %d bytes at %d", o.node, len(o.data), o.at)
	}
	what := [...]string{"create", "remove", "rename", "write", "truncate", "sync", "sync directory", "mark"}[o.kind]
	return fmt.Sprintf("%s %d: %s %s made %d size %d failed %t", what, o.node, o.name, o.to, o.made, o.at, o.failed)
}

// block is what the kernel writes back at once, and half of the disks tear in; the others tear in sectors.
const (
	block  = 4096
	sector = 512
)

// volume is a filesystem as programs see it, and beside it what of that the disk surely holds.
//
// The rules are POSIX's own, and no kinder: a file's bytes and size are durable as of its last sync; a name is durable as of
// the last sync of its directory, a new file's too; nothing else, no close and no time, makes anything durable. A
// failed sync makes its pages clean and not durable, as Linux does: the next one does not write them.
type volume struct {
	nodes map[uint64]*inode
	root  *inode
	last  uint64 // highest number of a node
}

type inode struct {
	id uint64
	// Of a file: its bytes, those that are durable, the changes since the last sync, and by number the pages a failed
	// sync was to write: the disk holds them or not. Those in spoilt it may hold as garbage.
	data, durable []byte
	changes       []op
	limbo         map[int64][]byte
	spoilt        map[int64]bool
	// Of a directory: its entries, those that are durable, and the changes since its last sync.
	entries, kept map[string]*inode
	names         []op
}

func newVolume() *volume {
	v := &volume{nodes: make(map[uint64]*inode)}
	v.root = v.node(1, true)
	return v
}

func (v *volume) node(id uint64, dir bool) *inode {
	n := &inode{id: id}
	if dir {
		n.entries, n.kept = make(map[string]*inode), make(map[string]*inode)
	}
	v.nodes[id] = n
	v.last = max(v.last, id)
	return n
}

// mended is called when the board says that it has put right what failed syncs have done: from now on a block that was
// not written again may be garbage, with what was durable there. Before, nobody could have saved it.
func (v *volume) mended() {
	for _, n := range v.nodes {
		n.spoilt = make(map[int64]bool, len(n.limbo))
		for p := range n.limbo {
			n.spoilt[p] = true
		}
	}
}

func (n *inode) isDir() bool { return n.entries != nil }

// apply does an operation that the log says was done.
func (v *volume) apply(o op) {
	n := v.nodes[o.node]
	switch o.kind {
	case opCreate:
		n.entries[o.name] = v.node(o.made, o.dir)
		n.names = append(n.names, o)
	case opRemove:
		o.made = n.entries[o.name].id
		delete(n.entries, o.name)
		n.names = append(n.names, o)
	case opRename:
		o.made = n.entries[o.name].id
		n.entries[o.to] = n.entries[o.name]
		delete(n.entries, o.name)
		n.names = append(n.names, o)
	case opWrite:
		n.data = write(n.data, o.at, o.data)
		n.changes = append(n.changes, o)
	case opTruncate:
		n.data = resize(n.data, o.at)
		n.changes = append(n.changes, o)
	case opSync:
		n.sync(o.failed)
	case opSyncDir:
		if !o.failed {
			n.kept, n.names = maps.Clone(n.entries), nil
		}
	}
}

// sync writes the pages that changed since the last one, and no others.
func (n *inode) sync(failed bool) {
	dirty := make(map[int64]bool)
	for _, c := range n.changes {
		from, to := c.at, c.at+int64(len(c.data))
		if c.kind == opTruncate && c.at%block != 0 {
			to = c.at + 1 // what lies behind the end in its page is zeroed there
		}
		for p := from / block; p*block < to; p++ {
			dirty[p] = true
		}
	}
	if !failed {
		n.durable = resize(n.durable, int64(len(n.data)))
		maps.DeleteFunc(n.limbo, func(p int64, _ []byte) bool { return p*block >= int64(len(n.data)) })
	}
	for p := range dirty {
		at := p * block
		if at >= int64(len(n.data)) {
			continue
		}
		page := n.data[at:min(at+block, int64(len(n.data)))]
		if failed {
			if n.limbo == nil {
				n.limbo = make(map[int64][]byte)
			}
			n.limbo[p] = bytes.Clone(page)
			delete(n.spoilt, p)
			continue
		}
		copy(n.durable[at:], page)
		delete(n.limbo, p)
	}
	n.changes = nil
}

// fate is what becomes of changes that were not synced.
type fate int

const (
	lost fate = iota
	all
	prefix // in order, up to one that is torn
	suffix // later ones overtook earlier ones
	mixed  // each by itself
	fates
)

// chosen says of n changes which are on the disk.
func chosen(rng *rand.Rand, f fate, n int) []bool {
	keep := make([]bool, n)
	pivot := rng.IntN(n + 1)
	for i := range keep {
		switch f {
		case all:
			keep[i] = true
		case prefix:
			keep[i] = i < pivot
		case suffix:
			keep[i] = i >= pivot
		case mixed:
			keep[i] = rng.IntN(2) == 0
		}
	}
	return keep
}

// cut is a disk as the power might leave it now. Half of the disks lose everything that was not synced, since that is
// what finds a missing sync; on the others each file and directory has a fate of its own.
func (v *volume) cut(rng *rand.Rand) *volume {
	c := &cutter{from: v, rng: rng, whole: rng.IntN(2) == 0, made: newVolume(), done: make(map[*inode]*inode)}
	c.done[v.root] = c.made.root
	c.dir(v.root, c.made.root, false)
	c.made.last = max(c.made.last, v.last)
	return c.made
}

type cutter struct {
	from  *volume
	rng   *rand.Rand
	whole bool // everything that was not synced is lost
	made  *volume
	done  map[*inode]*inode
}

func (c *cutter) fate() fate {
	if c.whole {
		return lost
	}
	return fate(c.rng.IntN(int(fates)))
}

func (c *cutter) dir(n, to *inode, inJournal bool) {
	entries := maps.Clone(n.kept)
	keep := chosen(c.rng, c.fate(), len(n.names))
	for i, o := range n.names {
		if !keep[i] {
			continue
		}
		e := c.from.nodes[o.made]
		switch o.kind {
		case opRemove:
			if entries[o.name] == e {
				delete(entries, o.name)
			}
		case opCreate:
			entries[o.name] = e
		case opRename:
			// There are no hard links: it leaves whatever name it has.
			maps.DeleteFunc(entries, func(_ string, other *inode) bool { return other == e })
			entries[o.to] = e
		}
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		m := c.done[e]
		if m == nil {
			m = c.made.node(e.id, e.isDir())
			c.done[e] = m
			if e.isDir() {
				c.dir(e, m, name == journalName)
			} else {
				m.data = c.file(e, inJournal)
				m.durable = bytes.Clone(m.data)
			}
		}
		to.entries[name], to.kept[name] = m, m
	}
}

// journalName is the directory whose files must bear what no other file does: that a write which failed has spoilt the
// block around it, with what was durable there.
const journalName = "journal"

func (c *cutter) file(n *inode, spoilt bool) []byte {
	f := c.fate()
	held := bytes.Clone(n.durable)
	for _, p := range slices.Sorted(maps.Keys(n.limbo)) {
		page := n.limbo[p]
		switch {
		case spoilt && n.spoilt[p] && c.rng.IntN(2) == 0:
			page = bytes.Clone(page)
			for i := range page {
				page[i] = byte(c.rng.Uint32())
			}
			held = write(held, p*block, page)
		case f == all, f != lost && c.rng.IntN(2) == 0:
			held = write(held, p*block, page)
		}
	}
	if f == lost || len(n.changes) == 0 {
		return held
	}
	unit := int64(sector)
	if c.rng.IntN(2) == 0 {
		unit = block
	}
	keep := chosen(c.rng, f, len(n.changes))
	for i, o := range n.changes {
		switch {
		case o.kind == opTruncate:
			if keep[i] {
				held = resize(held, o.at)
			}
		case f == mixed:
			held = c.spoil(held, n.durable, o, unit)
		case keep[i]:
			held = write(held, o.at, o.data)
		case f == prefix && i > 0 && keep[i-1] || f == suffix && i+1 < len(keep) && keep[i+1]: // torn
			// The order of writes is not that of their blocks; a whole number of them from the front is as good as any.
			end := (o.at + c.rng.Int64N(int64(len(o.data))+1)) / unit * unit
			if n := end - o.at; n > 0 {
				held = write(held, o.at, o.data[:n])
			}
		}
	}
	// The size is a change by itself. It never takes away what is durable, unless programs have.
	least, most := int64(len(n.durable)), int64(len(n.durable))
	for _, o := range n.changes {
		if o.kind == opTruncate {
			least = min(least, o.at)
		}
	}
	most = max(most, int64(len(n.data)))
	switch c.rng.IntN(4) {
	case 0:
		held = resize(held, max(least, min(int64(len(held)), int64(len(n.durable)))))
	case 1:
		held = resize(held, max(int64(len(held)), int64(len(n.data))))
	case 2:
		held = resize(held, least+c.rng.Int64N(most-least+1))
	}
	return held
}

// spoil writes o block by block, each there, absent, zeros or garbage. A byte that is durable and did not change stays.
func (c *cutter) spoil(held, durable []byte, o op, unit int64) []byte {
	for at, end := o.at, o.at+int64(len(o.data)); at < end; {
		next := min((at/unit+1)*unit, end)
		piece := bytes.Clone(o.data[at-o.at : next-o.at])
		how := c.rng.IntN(5)
		for i := range piece {
			if p := at + int64(i); p < int64(len(durable)) && durable[p] == piece[i] {
				continue
			}
			switch how {
			case 0:
				piece[i] = 0
			case 1:
				piece[i] = byte(c.rng.Uint32())
			}
		}
		if how != 2 {
			held = write(held, at, piece)
		}
		at = next
	}
	return held
}

// save writes the durable part of a volume into a directory that does not exist.
func (v *volume) save(dir string) error { return v.root.save(dir) }

func (n *inode) save(path string) error {
	if !n.isDir() {
		return os.WriteFile(path, n.durable, 0o644)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	for name, e := range n.kept {
		if err := e.save(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// clone is a volume with the same contents, all durable: only of one that a cut has made.
func (v *volume) clone() *volume {
	c := &cutter{from: v, rng: rand.New(rand.NewPCG(0, 0)), whole: true, made: newVolume(), done: make(map[*inode]*inode)}
	c.dir(v.root, c.made.root, false)
	c.made.last = v.last
	return c.made
}

// write is p with b at a position, zeros in between where it was shorter.
func write(p []byte, at int64, b []byte) []byte {
	if end := at + int64(len(b)); end > int64(len(p)) {
		p = resize(p, end)
	}
	copy(p[at:], b)
	return p
}

func resize(p []byte, size int64) []byte {
	if n := size - int64(len(p)); n > 0 {
		return append(p, make([]byte, n)...)
	}
	return p[:size]
}
