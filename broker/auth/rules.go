package auth

import (
	"slices"
	"strings"
	"sync"
)

// ACLs is a set of entries. It never changes; With and Without make the next one. The nil set is empty. Safe for
// concurrent use.
type ACLs struct {
	sorted []ACL // Invariant: strictly ascending by ACL.Compare.

	once  sync.Once
	index index
}

// index finds what holds for a resource without looking at all entries. It is made when it is first asked for, so that
// a replay of many commands makes one.
type index struct {
	byName map[place][]ACL
	// prefixes are the lengths of the prefixed names of a type, ascending: each is one look into byName.
	prefixes map[ResourceType][]int
	// filters are the entries about MQTT topic filters.
	filters map[Principal][]ACL
}

type place struct {
	kind    ResourceType
	pattern Pattern
	name    string
}

// NewACLs makes a set of entries, each taken once.
func NewACLs(entries ...ACL) *ACLs { return (*ACLs)(nil).With(entries...) }

// Len is the number of entries.
func (s *ACLs) Len() int { return len(s.All()) }

// All are the entries in their order; read only.
func (s *ACLs) All() []ACL {
	if s == nil {
		return nil
	}
	return s.sorted
}

// Has says whether the entry is in the set.
func (s *ACLs) Has(a ACL) bool {
	_, ok := slices.BinarySearchFunc(s.All(), a, ACL.Compare)
	return ok
}

// With is the set and more entries; those it has already change nothing.
func (s *ACLs) With(more ...ACL) *ACLs {
	all := slices.Concat(s.All(), more)
	slices.SortFunc(all, ACL.Compare)
	all = slices.Clip(slices.Compact(all))
	if len(all) == 0 {
		return nil
	}
	return &ACLs{sorted: all}
}

// Without is the set less some entries.
func (s *ACLs) Without(gone ...ACL) *ACLs {
	out := NewACLs(gone...)
	rest := slices.DeleteFunc(slices.Clone(s.All()), out.Has)
	if len(rest) == 0 {
		return nil
	}
	return &ACLs{sorted: slices.Clip(rest)}
}

// Equal says whether two sets have the same entries.
func (s *ACLs) Equal(o *ACLs) bool { return slices.Equal(s.All(), o.All()) }

func (s *ACLs) find() *index {
	s.once.Do(func() {
		s.index = index{byName: make(map[place][]ACL, len(s.sorted)), prefixes: make(map[ResourceType][]int), filters: make(map[Principal][]ACL)}
		for _, a := range s.sorted {
			if _, ok := a.filterOf(); ok {
				s.index.filters[a.Principal] = append(s.index.filters[a.Principal], a)
			}
			p := place{a.Type, a.Pattern, a.Name}
			if a.Pattern == Prefixed {
				s.index.prefixes[a.Type] = append(s.index.prefixes[a.Type], len(a.Name))
			}
			s.index.byName[p] = append(s.index.byName[p], a)
		}
		for t, lengths := range s.index.prefixes {
			slices.Sort(lengths)
			s.index.prefixes[t] = slices.Compact(lengths)
		}
	})
	return &s.index
}

// who says whether an entry is about the principal at the host.
func (a ACL) who(p Principal, host string) bool {
	return (a.Principal == p || a.Principal == anyone) && (a.Host == Wildcard || a.Host == host)
}

// allows says whether an entry that allows its operation allows op: to read, write, delete or alter something is to see
// it, and to alter its settings is to see them (Kafka's StandardAuthorizer).
func (a ACL) allows(op Operation) bool {
	switch {
	case a.Operation == op || a.Operation == All:
		return true
	case op == Describe:
		return a.Operation == Read || a.Operation == Write || a.Operation == Delete || a.Operation == Alter
	case op == DescribeConfigs:
		return a.Operation == AlterConfigs
	}
	return false
}

// Allows says whether the principal at the host may do op to r: no entry denies it, and one allows it.
func (s *ACLs) Allows(p Principal, host string, op Operation, r Resource) bool {
	allowed, denied := s.judge(p, host, op, r)
	return allowed && !denied
}

// judge says whether an entry about r allows op, and whether one denies it.
func (s *ACLs) judge(p Principal, host string, op Operation, r Resource) (allowed, denied bool) {
	if s == nil {
		return false, false
	}
	look := func(entries []ACL) (denied bool) {
		for i := range entries {
			a := &entries[i]
			if !a.who(p, host) {
				continue
			}
			if a.Permission == Deny {
				if a.Operation == op || a.Operation == All {
					return true
				}
			} else if a.allows(op) {
				allowed = true
			}
		}
		return false
	}
	x := s.find()
	if look(x.byName[place{r.Type, Literal, r.Name}]) || r.Name != Wildcard && look(x.byName[place{r.Type, Literal, Wildcard}]) {
		return false, true
	}
	for _, n := range x.prefixes[r.Type] {
		if n > len(r.Name) {
			break
		}
		if look(x.byName[place{r.Type, Prefixed, r.Name[:n]}]) {
			return false, true
		}
	}
	return allowed, false
}

// AllowsAny says whether there could be a resource of the type that the principal at the host may do op to (KIP-679).
func (s *ACLs) AllowsAny(p Principal, host string, op Operation, t ResourceType) bool {
	var allowed, denied []ACL
	for _, a := range s.All() {
		_, filter := a.filterOf() // which is no topic of Kafka's
		switch {
		case a.Type != t || !a.who(p, host) || filter:
		case a.Permission == Deny && (a.Operation == op || a.Operation == All):
			if a.Pattern == Literal && a.Name == Wildcard {
				return false
			}
			denied = append(denied, a)
		case a.Permission == Allow && a.allows(op):
			allowed = append(allowed, a)
		}
	}
	return slices.ContainsFunc(allowed, func(a ACL) bool {
		return !slices.ContainsFunc(denied, func(d ACL) bool { return d.covers(a) })
	})
}

// covers says whether every resource of the entry b is one of a's.
func (a ACL) covers(b ACL) bool {
	if b.Pattern == Literal && b.Name == Wildcard {
		return false
	}
	if a.Pattern == Prefixed {
		return strings.HasPrefix(b.Name, a.Name)
	}
	return b.Pattern == Literal && a.Name == b.Name
}

// Authorizer decides by entries and super users. The nil Authorizer allows everything. Safe for concurrent use.
type Authorizer struct {
	// Super may do everything (`super.users`).
	Super []Principal
	// ACLs are the entries now.
	ACLs func() *ACLs
}

// Allowed says whether the session's principal may do op to r.
func (z *Authorizer) Allowed(s *Session, op Operation, r Resource) bool {
	return z == nil || z.super(s) || s.Principal != "" && z.ACLs().Allows(s.Principal, s.Host, op, r)
}

// AllowedAny says whether the session's principal may do op to some resource of the type.
func (z *Authorizer) AllowedAny(s *Session, op Operation, t ResourceType) bool {
	return z == nil || z.super(s) || s.Principal != "" && z.ACLs().AllowsAny(s.Principal, s.Host, op, t)
}

func (z *Authorizer) super(s *Session) bool {
	return s.Principal != "" && slices.Contains(z.Super, s.Principal)
}
