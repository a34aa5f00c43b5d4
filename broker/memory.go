package broker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"millrace/broker/budget"
)

// memory is memory.limit as it is shared out. What a share does not grant waits or is refused.
type memory struct {
	budget *budget.Budget
	// bodies are Kafka requests from before their bytes are read until they are answered.
	bodies *budget.Share
	// copies are answers that cannot be sent straight from a file.
	copies *budget.Share
	// waiting is what fetches and produces in the purgatory hold.
	waiting *budget.Share
	// gathering are batches that were compressed anew, until they are durable.
	gathering *budget.Share
	// answers are large answers of Kafka's admin requests, sessions the partitions of its fetch sessions.
	answers, sessions *budget.Share
	// groups are members and offsets of consumer groups.
	groups *budget.Share
	// connections are those of all three doors; TLS makes one several times as large.
	connections *budget.Share
	// mqtt are MQTT publishes that are not durable yet, reading and readingSmall its large packets that are still
	// arriving, output what waits to be written to its clients, state its sessions, subscriptions, wills and index of
	// retained messages.
	mqtt, reading, readingSmall, output, state *budget.Share
	// upstream is what links to other clusters read, and have on the way.
	upstream *budget.Share
	// http are requests and answers of the HTTP door.
	http *budget.Share
}

// collectPercent is GOGC: on a board a little more work for the collector is cheaper than half as much heap again.
const collectPercent = 50

// bodiesLeast is the smallest share that takes a batch of a megabyte, Kafka's default `message.max.bytes`.
const bodiesLeast = 5 << 18

const (
	// upstreamMille is what links have for themselves, per mille of the heap, laneLeast the least each lane needs of it.
	upstreamMille = 80
	laneLeast     = laneCost * laneTransaction
	// laneCost is how many times the bytes of a transaction a lane holds: records, copies, and what the client makes of them.
	laneCost = 4
	// laneTransaction is the smallest there may be, laneTransactionMax the largest that is of use, in bytes.
	laneTransaction, laneTransactionMax = 64 << 10, 512 << 10
)

// transactionBytes is how large the transactions of each of so many lanes may be, so that all have room at once.
func (m *memory) transactionBytes(lanes int) int {
	room := m.upstream.Size()
	if room == 0 { // links came with a reload: what the pot has may be less than the most
		room = m.upstream.Most() / 4
	}
	return int(min(max(room/laneCost/int64(max(lanes, 1)), laneTransaction), laneTransactionMax))
}

// shareOut divides limit, in bytes, and tells the Go runtime to keep to it. lanes is how many links upstream send at once.
func shareOut(limit int64, lanes int) (*memory, error) {
	pages, err := binaryPages()
	if err != nil {
		return nil, err
	}
	heap, err := budget.HeapLimit(limit, pages)
	if err != nil {
		return nil, err
	}
	m, err := divide(heap, lanes)
	if err != nil {
		return nil, err
	}
	debug.SetMemoryLimit(heap)
	debug.SetGCPercent(collectPercent)
	return m, nil
}

// divide shares out a heap of so many bytes.
//
// What passes (a request, an answer) has a share that is always there. What stays as long as clients do (connections,
// sessions, groups) has little of its own and takes of one pot: a board may have many MQTT clients, or many groups, or
// TLS, and room for all of them at once would be room for none. At 48 MiB the pot holds 2,000 MQTT clients. Requests
// take of it too as long as it is not used. A board that has links when it starts keeps room for them, one that has none
// gives them of the pot what is left there.
func divide(heap int64, lanes int) (m *memory, err error) {
	// The rest is the runtime's own, catalog, partitions, caches, what is garbage but not collected yet, and decoders of
	// compressed batches: they have a limit of their own (record.DecodeRoom), which no usual client comes near.
	m = &memory{budget: budget.New(heap * 93 / 100)}
	for _, s := range []struct {
		share       **budget.Share
		name        string
		least, most int64 // per mille of the heap
	}{
		{&m.bodies, "bodies", 80, 110},
		{&m.copies, "copies", 30, 30},
		{&m.waiting, "waiting", 20, 20},
		{&m.gathering, "gathering", 35, 35},
		{&m.answers, "answers", 25, 25},
		{&m.sessions, "fetch-sessions", 10, 10},
		{&m.mqtt, "mqtt", 50, 80},
		{&m.reading, "mqtt-reading", 45, 45}, // one packet of max_packet_size at a time, where memory.limit is left alone
		{&m.readingSmall, "mqtt-reading-small", 10, 10},
		{&m.output, "mqtt-output", 25, 25},
		{&m.http, "http", 30, 140}, // one record of a megabyte in base64
		{&m.upstream, "upstream", 0, 160},
		{&m.groups, "groups", 10, 100},
		{&m.state, "mqtt-state", 10, 200},
		{&m.connections, "connections", 0, 560},
	} {
		least, most := heap*s.least/1000, heap*s.most/1000
		if s.share == &m.bodies {
			least = max(least, min(bodiesLeast, heap/5))
			most = max(most, least)
		}
		if s.share == &m.upstream && lanes > 0 {
			least = min(max(heap*upstreamMille/1000, int64(lanes)*laneLeast), most)
		}
		if *s.share, err = m.budget.Elastic(s.name, least, most); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// binaryPages is how much of this program the kernel has mapped, in bytes.
func binaryPages() (pages int64, err error) {
	err = ofThisProgram("/proc/self/maps", func(maps io.Reader, exe string) (err error) {
		pages, err = budget.BinaryPages(maps, exe)
		return err
	})
	return pages, err
}

// forgetStart gives back what only the start has used: garbage, and the pages of the program that it has touched. The
// kernel keeps those in its cache as long as there is room, and maps the few that are needed again when they are: half of
// a resident program is code that has run once.
func forgetStart() (err error) {
	debug.FreeOSMemory()
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exe.Close()) }()
	clean, err := budget.CleanPages(exe, uint64(os.Getpagesize()))
	for _, r := range clean {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(r.Start), uintptr(r.Size), unix.MADV_DONTNEED); errno != 0 {
			err = errors.Join(err, fmt.Errorf("madvise %#x: %w", r.Start, errno))
		}
	}
	return err
}

// ofThisProgram reads one of the kernel's lists of mappings.
func ofThisProgram(list string, read func(maps io.Reader, exe string) error) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	maps, err := os.Open(list)
	if err != nil {
		return err
	}
	return errors.Join(read(maps, exe), maps.Close())
}
