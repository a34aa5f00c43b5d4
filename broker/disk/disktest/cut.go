package disktest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Cut writes into dst, which must not exist, a tree as the disk might hold it after the power was cut, and cuts it now
// if that has not happened. Each call with another rng gives another plausible disk:
//
//   - What was synced is there, byte for byte: a file's bytes and size as of its last sync, a directory's entries as
//     of its last sync.
//   - Of a file's bytes that changed since, each block of 512 or 4,096 bytes is old, new, zeros, garbage, or torn
//     inside; in order (a prefix of the changes made it), in the reverse order, or in none. The size is the old one, the
//     new one, or any between.
//   - Of a directory's entries that changed since, each is old or new by itself: a created file is lost, a removed one
//     is back with its durable bytes, whatever was removed or created after it. A rename happened or did not: a file
//     is never lost by it nor there twice, and a file it replaced is there until it happened.
//
// What the model leaves out: bytes that were written, and written over before any sync, never appear; synced bytes do
// not rot, but where Spoil says so.
func (f *FS) Cut(rng *rand.Rand, dst string) error {
	r := f.record()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
	if r.err != nil {
		return fmt.Errorf("disktest: picture of %s: %w", r.root, r.err)
	}
	c := &cutter{picture: r.cut, rng: rng}
	c.renames(r.top)
	return c.dir(r.top, dst)
}

// cutter makes one disk.
type cutter struct {
	*picture
	rng *rand.Rand
	// happened says of each node that was renamed since the directories were synced whether the disk knows.
	happened map[*node]bool
}

// place is a name in a directory.
type place struct {
	dir  *node
	name string
}

// renames decides which renames happened. A node was renamed when it is durable under one name and seen under another.
func (c *cutter) renames(top *node) {
	durable, seen := make(map[*node]place), make(map[*node]place)
	var order []*node // for the same decisions from the same seed
	visited := make(map[*node]bool)
	var walk func(d *node)
	walk = func(d *node) {
		if visited[d] {
			return
		}
		visited[d] = true
		for _, name := range names(d.entries, c.entries[d]) {
			if n := d.entries[name]; n != nil {
				durable[n] = place{d, name}
				order = append(order, n)
			}
			if n := c.entries[d][name]; n != nil {
				seen[n] = place{d, name}
			}
			for _, n := range []*node{d.entries[name], c.entries[d][name]} {
				if n != nil && n.entries != nil {
					walk(n)
				}
			}
		}
	}
	walk(top)

	c.happened = make(map[*node]bool)
	for _, n := range order {
		to, ok := seen[n]
		from := durable[n]
		if !ok || from == to || c.entries[from.dir][from.name] == n || to.dir.entries[to.name] == n {
			continue
		}
		c.happened[n] = c.rng.IntN(2) == 0
	}
	// A rename onto a name whose file was renamed away before it implies that one.
	for again := true; again; {
		again = false
		for n, yes := range c.happened {
			if !yes {
				continue
			}
			to := seen[n]
			if happened, renamed := c.happened[to.dir.entries[to.name]]; renamed && !happened {
				c.happened[to.dir.entries[to.name]] = true
				again = true
			}
		}
	}
}

// entry decides what a name in a directory stands for on the disk; nil for nothing.
func (c *cutter) entry(old, now *node) *node {
	if old == now {
		return old
	}
	oldMoved, oldRenamed := c.happened[old]
	nowMoved, nowRenamed := c.happened[now]
	switch {
	case nowRenamed && nowMoved:
		return now
	case oldRenamed && !oldMoved:
		return old
	case nowRenamed && oldRenamed: // one has gone, the other has not come
		return nil
	case nowRenamed: // replaces nothing before it happens
		return old
	case oldRenamed:
		old = nil
	}
	if c.rng.IntN(2) == 0 {
		return old
	}
	return now
}

func (c *cutter) dir(d *node, dst string) error {
	if err := os.Mkdir(dst, 0o755); err != nil {
		return err
	}
	for _, name := range names(d.entries, c.entries[d]) {
		n := c.entry(d.entries[name], c.entries[d][name])
		if n == nil {
			continue
		}
		path := filepath.Join(dst, name)
		if n.entries != nil {
			if err := c.dir(n, path); err != nil {
				return err
			}
			continue
		}
		held := n.durable
		if now, ok := c.bytes[n]; ok {
			held = tear(c.rng, n.durable, now)
		}
		held = rot(c.rng, held, n.spoilt)
		if err := os.WriteFile(path, held, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tear mixes a file's durable bytes with those programs saw.
func tear(rng *rand.Rand, old, now []byte) []byte {
	if bytes.Equal(old, now) {
		return old
	}
	small, large := min(len(old), len(now)), max(len(old), len(now))
	size := []int{len(old), len(now), small + rng.IntN(large-small+1)}[rng.IntN(3)]
	held := make([]byte, size)
	copy(held, old)
	block := []int{512, page}[rng.IntN(2)]
	order := rng.IntN(5)
	// A pivot somewhere among the bytes that changed: a prefix or a suffix of the changes ends there.
	first := firstChange(old, now)
	pivot := first + rng.IntN(large-first+1)
	for at := first / block * block; at < size; at += block {
		end := min(at+block, size)
		switch order {
		case 0: // all lost
		case 1: // all kept
			write(held, now, at, end)
		case 2: // in order, up to the pivot
			write(held, now, at, min(end, pivot))
		case 3: // from the pivot on: later blocks overtook earlier ones
			write(held, now, max(at, pivot), end)
		case 4:
			c := at + rng.IntN(block)
			switch rng.IntN(6) {
			case 0: // lost
			case 1:
				write(held, now, at, end)
			case 2:
				write(held, now, at, min(end, c))
			case 3:
				write(held, now, max(at, c), end)
			case 4:
				spoil(held, old, now, at, end, func() byte { return 0 })
			case 5:
				spoil(held, old, now, at, end, func() byte { return byte(rng.Uint32()) })
			}
		}
	}
	return held
}

// rot turns half of the spoilt pages into garbage.
func rot(rng *rand.Rand, held []byte, spoilt map[int]bool) []byte {
	if len(spoilt) == 0 {
		return held
	}
	held = bytes.Clone(held) // the recorder's
	for _, p := range slices.Sorted(maps.Keys(spoilt)) {
		if rng.IntN(2) == 0 {
			continue
		}
		for i := range span(held, p*page, page) {
			held[p*page+i] = byte(rng.Uint32())
		}
	}
	return held
}

// write puts the new bytes of [at, end) there, as far as there are any.
func write(held, now []byte, at, end int) {
	if end = min(end, len(now)); at < end {
		copy(held[at:end], now[at:end])
	}
}

// spoil replaces what changed in [at, end) by something else. Bytes that are durable and did not change stay.
func spoil(held, old, now []byte, at, end int, with func() byte) {
	for i := at; i < end; i++ {
		changed := i < len(now) && (i >= len(old) || old[i] != now[i])
		if changed {
			held[i] = with()
		}
	}
}

func firstChange(old, now []byte) int {
	small := min(len(old), len(now))
	for i := range small {
		if old[i] != now[i] {
			return i
		}
	}
	return small
}

// names lists the names of both maps once, sorted.
func names(a, b map[string]*node) []string {
	all := maps.Clone(a)
	if all == nil {
		all = make(map[string]*node)
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}
