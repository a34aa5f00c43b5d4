package quorum

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// transport is what the quorum needs from the way to the other voters: raft's calls, and a call to ourselves. The lone
// voter's is loopback; a network transport over mutual TLS takes its place in a cluster.
type transport interface {
	raft.Transport
	raft.WithPreVote
	// stand asks the local raft to hold an election now instead of after its timeout. It returns once raft heard it, or
	// when stop is closed.
	stand(stop <-chan struct{}) error
}

var errAlone = errors.New("this quorum has one voter, nobody else to call")

// loopback is the transport of a lone voter: it carries nothing but stand.
type loopback struct {
	address raft.ServerAddress
	calls   chan raft.RPC
}

var _ transport = (*loopback)(nil)

func newLoopback(address raft.ServerAddress) *loopback {
	return &loopback{address: address, calls: make(chan raft.RPC)}
}

// stand sends raft's own TimeoutNow, the message a leader hands its office over with. So a lone voter with timeouts of
// ten seconds, which keep it asleep, still leads within a millisecond.
func (t *loopback) stand(stop <-chan struct{}) error {
	answer := make(chan raft.RPCResponse, 1)
	call := raft.RPC{
		Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, Addr: t.EncodePeer("", t.address)}},
		RespChan: answer,
	}
	select {
	case t.calls <- call:
	case <-stop:
		return ErrClosed
	}
	select {
	case a := <-answer:
		return a.Error
	case <-stop:
		return ErrClosed
	}
}

func (t *loopback) Consumer() <-chan raft.RPC          { return t.calls }
func (t *loopback) LocalAddr() raft.ServerAddress      { return t.address }
func (t *loopback) SetHeartbeatHandler(func(raft.RPC)) {}

func (t *loopback) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (t *loopback) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (t *loopback) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, errAlone
}

func (t *loopback) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	return errAlone
}

func (t *loopback) RequestVote(raft.ServerID, raft.ServerAddress, *raft.RequestVoteRequest, *raft.RequestVoteResponse) error {
	return errAlone
}

func (t *loopback) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return errAlone
}

func (t *loopback) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return errAlone
}

func (t *loopback) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	return errAlone
}
