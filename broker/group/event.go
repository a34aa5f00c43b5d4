package group

// ticket names who is to be answered; 0 is nobody.
type ticket int64

// moment is a time as the machine is told it.
type moment struct {
	ms   int64 // since any fixed instant, never going back: what deadlines and ages are measured by
	wall int64 // Unix time in ms: what is written down
}

// event is what can happen to a group.
type event interface {
	// to is who is answered.
	to() ticket
	// fail is the answer that says err.
	fail(err error) any
	// absent is what is said when there is no such group; nil has the group made.
	absent() error
	// weight bounds what the group may grow by, in bytes.
	weight() int64
}

// Protocol is one way of assignment a member knows, with what it tells the leader about itself.
type Protocol struct {
	Name     string
	Metadata []byte
}

// Join asks to become, or to stay, a member in the next generation.
type Join struct {
	Group, Member, Instance string
	ClientID, ClientHost    string
	SessionMS, RebalanceMS  int32
	ProtocolType            string
	Protocols               []Protocol
	// RequireID has a new member told its id first, before it counts (KIP-394).
	RequireID bool
	// CanSkip says that a leader understands that its assignment is not wanted (KIP-814).
	CanSkip bool

	newID string // the id the member gets when it has none
	tell  ticket
}

// JoinReply answers a Join. Err is nil for a member of the generation.
type JoinReply struct {
	Err                            error
	Member                         string
	Generation                     int32
	ProtocolType, Protocol, Leader string
	SkipAssignment                 bool
	Members                        []JoinedMember // told to the leader alone
}

// JoinedMember is a member as its leader is told of it.
type JoinedMember struct {
	ID, Instance string
	Metadata     []byte
}

// Sync asks for a member's assignment. The leader brings everybody's.
type Sync struct {
	Group, Member, Instance string
	Generation              int32
	ProtocolType, Protocol  *string // nil: not said
	Assignments             map[string][]byte

	tell ticket
}

// SyncReply answers a Sync.
type SyncReply struct {
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// Heartbeat says that a member is alive. It is answered by an error, nil for a member of a stable group.
type Heartbeat struct {
	Group, Member, Instance string
	Generation              int32

	tell ticket
}

// Leave takes members out. It is answered by a LeaveReply.
type Leave struct {
	Group   string
	Members []Leaver

	tell ticket
}

// Leaver is a member that leaves: by its id, or by its instance id alone.
type Leaver struct{ Member, Instance string }

// LeaveReply answers a Leave: one error for each member, in their order.
type LeaveReply struct {
	Err    error
	Errors []error
}

// Commit writes offsets down. It is answered by an error.
type Commit struct {
	Group, Member, Instance string
	Generation              int32 // -1: by somebody who is no member
	Offsets                 []Committed

	tell ticket
}

// Place is a partition of a topic by name.
type Place struct {
	Topic     string
	Partition int32
}

// Committed is an offset on its way into the group.
type Committed struct {
	Place
	TopicID  [16]byte // zero: not known
	Offset   int64
	Epoch    int32 // -1: none
	Metadata string
	// RetainMS keeps the offset so long, whatever the configuration says; -1: as configured.
	RetainMS int64
}

// DeleteGroup deletes a group without members. It is answered by an error.
type DeleteGroup struct {
	Group string

	tell ticket
}

// DeleteOffsets deletes offsets. It is answered by a DeleteReply.
type DeleteOffsets struct {
	Group  string
	Places []Place

	tell ticket
}

// DeleteReply answers a DeleteOffsets: one error for each place, in their order.
type DeleteReply struct {
	Err    error
	Errors []error
}

// tick says that the time of the group's alarm has come.
type tick struct{}

// written says what became of a write.
type written struct {
	seq int64
	err error
}

// sweep has offsets expire that are too old.
type sweep struct{}

// forget has the offsets of a topic go: it was deleted.
type forget struct {
	gone func(topic string, id [16]byte) bool
	tell ticket
}

func (e Join) to() ticket          { return e.tell }
func (e Sync) to() ticket          { return e.tell }
func (e Heartbeat) to() ticket     { return e.tell }
func (e Leave) to() ticket         { return e.tell }
func (e Commit) to() ticket        { return e.tell }
func (e DeleteGroup) to() ticket   { return e.tell }
func (e DeleteOffsets) to() ticket { return e.tell }
func (tick) to() ticket            { return 0 }
func (written) to() ticket         { return 0 }
func (sweep) to() ticket           { return 0 }
func (e forget) to() ticket        { return e.tell }

func (e Join) fail(err error) any {
	return JoinReply{Err: err, Member: e.Member, Generation: -1}
}
func (e Sync) fail(err error) any        { return SyncReply{Err: err} }
func (e Heartbeat) fail(err error) any   { return err }
func (e Commit) fail(err error) any      { return err }
func (e DeleteGroup) fail(err error) any { return err }
func (tick) fail(error) any              { return nil }
func (written) fail(error) any           { return nil }
func (sweep) fail(error) any             { return nil }
func (e forget) fail(err error) any      { return err }
func (e DeleteOffsets) fail(err error) any {
	return DeleteReply{Err: err}
}

// fail says an unknown member for each of them: that is what a group nobody knows means to who leaves it.
func (e Leave) fail(err error) any {
	if err == ErrUnknownMember {
		errs := make([]error, len(e.Members))
		for i := range errs {
			errs[i] = err
		}
		return LeaveReply{Errors: errs}
	}
	return LeaveReply{Err: err}
}

func (e Join) absent() error {
	if e.Member != "" {
		return ErrUnknownMember
	}
	return nil
}
func (e Sync) absent() error      { return ErrUnknownMember }
func (e Heartbeat) absent() error { return ErrUnknownMember }
func (e Leave) absent() error     { return ErrUnknownMember }

func (e Commit) absent() error {
	if e.Generation >= 0 {
		return ErrIllegalGeneration
	}
	return nil
}
func (e DeleteGroup) absent() error   { return ErrNotFound }
func (e DeleteOffsets) absent() error { return ErrNotFound }
func (tick) absent() error            { return ErrNotFound }
func (written) absent() error         { return ErrNotFound }
func (sweep) absent() error           { return ErrNotFound }
func (forget) absent() error          { return ErrNotFound }

// What things take in memory, in bytes: a struct, its place in maps and slices, and what the allocator rounds up.
const (
	groupCost    = 1024
	memberCost   = 640
	protocolCost = 64
	pendingCost  = 160
	topicCost    = 384
	offsetCost   = 176
)

func (e Join) weight() int64 {
	n := int64(groupCost+memberCost+pendingCost) + 2*int64(len(e.Group)+len(e.newID)+len(e.Instance)+len(e.ClientID)+len(e.ClientHost))
	for _, p := range e.Protocols {
		n += protocolCost + int64(len(p.Name)+len(p.Metadata))
	}
	return n
}

func (e Sync) weight() (n int64) {
	for _, a := range e.Assignments {
		n += int64(len(a))
	}
	return n
}

func (e Commit) weight() int64 {
	n := int64(groupCost + 2*len(e.Group))
	for i := range e.Offsets {
		o := &e.Offsets[i]
		n += topicCost + offsetCost + int64(len(o.Topic)+len(o.Metadata))
	}
	return n
}

func (Heartbeat) weight() int64     { return 0 }
func (Leave) weight() int64         { return 0 }
func (DeleteGroup) weight() int64   { return 0 }
func (DeleteOffsets) weight() int64 { return 0 }
func (tick) weight() int64          { return 0 }
func (written) weight() int64       { return 0 }
func (sweep) weight() int64         { return 0 }
func (forget) weight() int64        { return 0 }
