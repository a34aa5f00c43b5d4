package auth

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
)

// ResourceType is a kind of thing that can be protected; the numbers are Kafka's (ResourceType).
type ResourceType uint8

// The kinds of resources. AnyResource is for filters. Delegation tokens and users (6, 7) are refused: there are no tokens.
const (
	AnyResource     ResourceType = 1
	Topic           ResourceType = 2
	Group           ResourceType = 3
	Cluster         ResourceType = 4
	TransactionalID ResourceType = 5
)

// ClusterName is the one resource of type Cluster.
const ClusterName = "kafka-cluster"

// Pattern is how an entry names resources; the numbers are Kafka's (PatternType).
type Pattern uint8

// The patterns. AnyPattern and MatchPattern are for filters.
const (
	AnyPattern   Pattern = 1
	MatchPattern Pattern = 2
	Literal      Pattern = 3
	Prefixed     Pattern = 4
)

// Wildcard is the literal name that stands for every resource of its type.
const Wildcard = "*"

// Operation is what is done to a resource; the numbers are Kafka's (AclOperation).
type Operation uint8

// The operations.
const (
	AnyOperation    Operation = 1
	All             Operation = 2
	Read            Operation = 3
	Write           Operation = 4
	Create          Operation = 5
	Delete          Operation = 6
	Alter           Operation = 7
	Describe        Operation = 8
	ClusterAction   Operation = 9
	DescribeConfigs Operation = 10
	AlterConfigs    Operation = 11
	IdempotentWrite Operation = 12
)

// Permission is what an entry says; the numbers are Kafka's (AclPermissionType).
type Permission uint8

// The permissions.
const (
	AnyPermission Permission = 1
	Deny          Permission = 2
	Allow         Permission = 3
)

// supported are the operations that have a meaning for a type of resource (Kafka's AclEntry.supportedOperations).
var supported = map[ResourceType][]Operation{
	Topic:           {Read, Write, Create, Describe, Delete, Alter, DescribeConfigs, AlterConfigs},
	Group:           {Read, Describe, Delete, DescribeConfigs, AlterConfigs},
	Cluster:         {Create, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite, Alter, Describe},
	TransactionalID: {Describe, Write},
}

// Operations lists the operations that have a meaning for a type of resource; read only.
func Operations(t ResourceType) []Operation { return supported[t] }

// ACL is one access control entry.
type ACL struct {
	Type       ResourceType
	Pattern    Pattern
	Name       string
	Principal  Principal
	Host       string // "*" or an address
	Operation  Operation
	Permission Permission
}

// Compare orders entries; entries that are equal are the same entry.
func (a ACL) Compare(b ACL) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type), cmp.Compare(a.Pattern, b.Pattern), strings.Compare(a.Name, b.Name),
		strings.Compare(string(a.Principal), string(b.Principal)), strings.Compare(a.Host, b.Host),
		cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission),
	)
}

// Check says what is wrong with an entry; the error wraps ErrACL. A host that is no address could never match, so that
// an entry that denies it would deny nobody: it is refused, where Apache Kafka takes it.
func (a ACL) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrACL, fmt.Sprintf(format, args...))
	}
	ops, known := supported[a.Type]
	switch {
	case !known:
		return bad("resource type %d", a.Type)
	case a.Pattern != Literal && a.Pattern != Prefixed:
		return bad("pattern type %d", a.Pattern)
	case a.Name == "" || len(a.Name) > ResourceMax:
		return bad("a resource name has 1 to %d bytes", ResourceMax)
	case a.Type == Cluster && a.Name != ClusterName:
		return bad("the only cluster is %s", ClusterName)
	case a.Permission != Allow && a.Permission != Deny:
		return bad("permission type %d", a.Permission)
	case !a.Principal.Valid():
		return bad("a principal is User: and a name, at most %d bytes", PrincipalMax)
	}
	if why := a.checkFilter(); why != "" {
		return bad("%s", why)
	}
	if a.Operation != All {
		found := false
		for _, op := range ops {
			found = found || op == a.Operation
		}
		if !found {
			return bad("operation %d has no meaning for resource type %d", a.Operation, a.Type)
		}
	}
	if a.Host != Wildcard {
		if ip, err := netip.ParseAddr(a.Host); err != nil || ip.Unmap().String() != a.Host {
			return bad("a host is * or an address in its usual form")
		}
	}
	return nil
}

// Resource is a thing that is asked about.
type Resource struct {
	Type ResourceType
	Name string
}

// TopicNamed is a topic.
func TopicNamed(name string) Resource { return Resource{Topic, name} }

// GroupNamed is a consumer group.
func GroupNamed(id string) Resource { return Resource{Group, id} }

// TransactionNamed is a transactional id.
func TransactionNamed(id string) Resource { return Resource{TransactionalID, id} }

// Filter selects entries; the zero strings and the Any values select all. It is Kafka's AclBindingFilter.
type Filter struct {
	Type       ResourceType
	Pattern    Pattern
	Name       *string
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Check says what is wrong with a filter; the error wraps ErrACL.
func (f Filter) Check() error {
	_, known := supported[f.Type]
	if !known && f.Type != AnyResource || f.Pattern < AnyPattern || f.Pattern > Prefixed ||
		f.Operation < AnyOperation || f.Operation > IdempotentWrite || f.Permission < AnyPermission || f.Permission > Allow {
		return fmt.Errorf("%w: a filter of resource type %d, pattern type %d, operation %d, permission %d",
			ErrACL, f.Type, f.Pattern, f.Operation, f.Permission)
	}
	return nil
}

// Matches says whether the filter selects an entry.
func (f Filter) Matches(a ACL) bool {
	return (f.Type == AnyResource || f.Type == a.Type) && f.matchesName(a) &&
		(f.Principal == nil || *f.Principal == string(a.Principal)) && (f.Host == nil || *f.Host == a.Host) &&
		(f.Operation == AnyOperation || f.Operation == a.Operation) && (f.Permission == AnyPermission || f.Permission == a.Permission)
}

// matchesName: Literal and Prefixed select entries named just so, AnyPattern both, MatchPattern every entry that holds
// for a resource of the name (KIP-290).
func (f Filter) matchesName(a ACL) bool {
	switch f.Pattern {
	case Literal, Prefixed:
		if f.Pattern != a.Pattern {
			return false
		}
	case MatchPattern:
		if f.Name == nil {
			return true
		}
		if a.Pattern == Prefixed {
			return strings.HasPrefix(*f.Name, a.Name)
		}
		return a.Name == *f.Name || a.Name == Wildcard
	}
	return f.Name == nil || *f.Name == a.Name
}
