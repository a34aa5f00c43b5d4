package group

import "errors"

var (
	// ErrInvalidGroup is returned for a group without a name where there must be one.
	ErrInvalidGroup = errors.New("invalid group id")
	// ErrUnknownMember is returned to who is not a member of the group, or not any more.
	ErrUnknownMember = errors.New("the member is not known to the group")
	// ErrIllegalGeneration is returned to a member that speaks for another generation than the group's.
	ErrIllegalGeneration = errors.New("not the group's generation")
	// ErrRebalance is returned to a member that has to join again: the group makes a new generation.
	ErrRebalance = errors.New("the group is rebalancing")
	// ErrInconsistentProtocol is returned to a member that shares no protocol with the others, or has none.
	ErrInconsistentProtocol = errors.New("no protocol is common to all members")
	// ErrInvalidSession is returned for a session timeout outside the configured range.
	ErrInvalidSession = errors.New("session timeout out of range")
	// ErrMemberIDRequired is returned to a new member with the id it is to join with (KIP-394).
	ErrMemberIDRequired = errors.New("join again with the given member id")
	// ErrFull is returned to a member that would be one too many, or for which there is no room in memory.
	ErrFull = errors.New("the group takes no more members")
	// ErrFenced is returned to a static member whose instance id another member has taken over (KIP-345).
	ErrFenced = errors.New("the instance id belongs to another member now")
	// ErrNotFound is returned for a group that does not exist.
	ErrNotFound = errors.New("the group does not exist")
	// ErrNotEmpty is returned when a group with members is to be deleted.
	ErrNotEmpty = errors.New("the group has members")
	// ErrSubscribed is returned when offsets are to be deleted of a topic that members read.
	ErrSubscribed = errors.New("the group is subscribed to the topic")
	// ErrLoading is returned while the state of the group is being read from the log.
	ErrLoading = errors.New("the coordinator is loading")
	// ErrNotCoordinator is returned when another broker coordinates the group.
	ErrNotCoordinator = errors.New("not the group's coordinator")
	// ErrUnavailable is returned when the coordinator cannot do it now: the log took nothing, or the group is being
	// deleted. The client comes again.
	ErrUnavailable = errors.New("the coordinator is not available")
	// ErrTooMany is returned for offsets, or a group, above a limit of this board.
	ErrTooMany = errors.New("too many groups or offsets")
	// ErrMetadataTooLarge is returned for an offset whose metadata is over `offset.metadata.max.bytes`.
	ErrMetadataTooLarge = errors.New("the offset's metadata is too large")
)
