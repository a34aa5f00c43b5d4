package broker

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"millrace/broker/budget"
	"millrace/broker/record"
)

// memory is memory.limit as it is shared out. What a share does not grant waits or is refused; nothing takes from
// another's.
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
	// tls are connections of the Kafka door that have TLS, 40 KiB each.
	tls *budget.Share
	// mqtt are MQTT publishes that are not durable yet, reading and readingSmall its large packets that are still
	// arriving, output what waits to be written to its clients, state its sessions, subscriptions, wills and index of
	// retained messages.
	mqtt, reading, readingSmall, output, state *budget.Share
}

// collectPercent is GOGC: on a board a little more work for the collector is cheaper than half as much heap again.
const collectPercent = 50

// shareOut divides limit, in bytes, and tells the Go runtime to keep to it.
func shareOut(limit int64) (*memory, error) {
	pages, err := binaryPages()
	if err != nil {
		return nil, err
	}
	heap, err := budget.HeapLimit(limit, pages)
	if err != nil {
		return nil, err
	}
	m := &memory{budget: budget.New(heap)}
	// Decoders of compressed batches have a limit of their own. All of it is used only where somebody asks for it, as no
	// usual client does: a part of it is kept free, and the rest of it is among what is left over below.
	decoders := min(record.DecodeRoom, heap/5)
	if _, err := m.budget.Share("decoders", decoders); err != nil {
		return nil, err
	}
	for _, s := range []struct {
		share   **budget.Share
		name    string
		percent int64
	}{
		{&m.bodies, "bodies", 25},
		{&m.copies, "copies", 8},
		{&m.waiting, "waiting", 5},
		{&m.gathering, "gathering", 5},
		{&m.answers, "answers", 5},
		{&m.sessions, "fetch-sessions", 2},
		{&m.groups, "groups", 8},
		{&m.tls, "tls", 8},
		{&m.mqtt, "mqtt", 8},
		{&m.reading, "mqtt-reading", 4}, // one packet of max_packet_size at a time, where memory.limit is left alone
		{&m.readingSmall, "mqtt-reading-small", 2},
		{&m.output, "mqtt-output", 8},
		{&m.state, "mqtt-state", 10},
		// The rest is the runtime's own, catalog, partitions, caches and what is garbage but not collected yet.
	} {
		if *s.share, err = m.budget.Share(s.name, (heap-decoders)*s.percent/100); err != nil {
			return nil, err
		}
	}
	debug.SetMemoryLimit(heap)
	debug.SetGCPercent(collectPercent)
	return m, nil
}

// binaryPages is how much of this program the kernel has mapped, in bytes.
func binaryPages() (int64, error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find this program: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	pages, err := budget.BinaryPages(maps, exe)
	return pages, errors.Join(err, maps.Close())
}
