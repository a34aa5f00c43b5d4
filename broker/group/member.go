package group

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// member is one consumer of a group.
type member struct {
	id, instance         string // instance is "" for a dynamic member
	clientID, clientHost string
	session, rebalance   int64 // timeouts in ms
	// protocols in the order of the member's preference; one where the member was loaded from the log.
	protocols  []Protocol
	assignment []byte

	// joining and syncing are who waits for an answer to the member's Join and Sync.
	//
	// Invariant: joining is 0 but in PreparingRebalance, syncing is 0 but in CompletingRebalance.
	joining, syncing ticket
	// fresh is set until the member has been in a generation: nobody knows yet whether its client lives.
	fresh bool
	// restored is set while nobody has spoken for the member since it was read from the log.
	restored bool
	// synced is set when the member has asked for its assignment in this generation.
	synced bool
	// deadline is when the session is over, in ms, unless the member waits for the group.
	deadline int64
}

// kept says whether the member lives without heartbeats: it waits for an answer, and its client cannot send any.
func (m *member) kept() bool { return !m.fresh && (m.joining != 0 || m.syncing != 0) }

// metadata is what the member tells the leader under a protocol.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func (m *member) supports(protocol string) bool {
	return slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == protocol })
}

// matches says whether the member offers just these protocols again.
func (m *member) matches(protocols []Protocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
}

func (m *member) cost() int64 {
	n := int64(memberCost) + 2*int64(len(m.id)+len(m.instance)) + int64(len(m.clientID)+len(m.clientHost)+len(m.assignment))
	for _, p := range m.protocols {
		n += protocolCost + int64(len(p.Name)+len(p.Metadata))
	}
	return n
}

// supports says whether a member with these protocols can be in the group.
func (g *group) supports(protocolType string, protocols []Protocol) bool {
	if protocolType == "" || len(protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	return g.protocolType == protocolType && slices.ContainsFunc(protocols, func(p Protocol) bool { return g.common(p.Name) })
}

// common says whether all members know a protocol.
func (g *group) common(protocol string) bool {
	return !slices.ContainsFunc(g.members, func(m *member) bool { return !m.supports(protocol) })
}

// choose is the protocol of the next generation: every member votes for the first of its own that all know, and of those
// with the most votes the one that was voted for first wins.
func (g *group) choose() string {
	var names []string
	votes := map[string]int{}
	known := map[string]bool{}
	for _, m := range g.members {
		for _, p := range m.protocols {
			common, asked := known[p.Name]
			if !asked {
				common = g.common(p.Name)
				known[p.Name] = common
			}
			if common {
				if votes[p.Name]++; votes[p.Name] == 1 {
					names = append(names, p.Name)
				}
				break
			}
		}
	}
	best := ""
	for _, n := range names {
		if best == "" || votes[n] > votes[best] {
			best = n
		}
	}
	return best
}

// consumerType is the protocol type of consumers, whose metadata is known: ConsumerProtocolSubscription.
const consumerType = "consumer"

// topicsOf is what a consumer's metadata says it reads; ok is false when it says nothing that can be understood.
func topicsOf(metadata []byte) (topics []string, ok bool) {
	if len(metadata) < 6 { // version, count
		return nil, false
	}
	n, rest := int32(binary.BigEndian.Uint32(metadata[2:])), metadata[6:]
	if n < 0 || int(n) > len(rest)/2 {
		return nil, false
	}
	for range n {
		if len(rest) < 2 {
			return nil, false
		}
		size := int(binary.BigEndian.Uint16(rest))
		if rest = rest[2:]; size > len(rest) {
			return nil, false
		}
		topics, rest = append(topics, string(rest[:size])), rest[size:]
	}
	return topics, true
}

// subscribed says whether members read a topic as far as can be known; known is false when it cannot.
func (g *group) subscribed() (topics map[string]bool, known bool) {
	if g.protocolType != consumerType || g.protocol == "" {
		return nil, false
	}
	topics = map[string]bool{}
	for _, m := range g.members {
		list, ok := topicsOf(m.metadata(g.protocol))
		if !ok {
			return nil, false
		}
		for _, t := range list {
			topics[t] = true
		}
	}
	return topics, true
}

// sameTopics says whether two consumers' metadata name the same topics; what cannot be understood is the same when its
// bytes are.
func sameTopics(a, b []byte) bool {
	left, ok := topicsOf(a)
	right, fine := topicsOf(b)
	if !ok || !fine {
		return bytes.Equal(a, b)
	}
	slices.Sort(left)
	slices.Sort(right)
	return slices.Equal(left, right)
}
