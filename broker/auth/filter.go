package auth

import "strings"

// FilterMark begins the name of a topic that is an MQTT topic filter: "mqtt:devices/%c/#". No Kafka topic is called so, and
// Apache Kafka's tools carry such a name like any other. In a filter %c stands for the client identifier and %u for the
// name of the user, each within one level.
const FilterMark = "mqtt:"

// filterOf is the filter an entry is about, if it is about one.
func (a ACL) filterOf() (filter string, ok bool) {
	if a.Type != Topic || a.Pattern != Literal {
		return "", false
	}
	return strings.CutPrefix(a.Name, FilterMark)
}

// checkFilter says what is wrong with an entry about a filter, "" for nothing.
func (a ACL) checkFilter() string {
	if a.Type != Topic || !strings.HasPrefix(a.Name, FilterMark) {
		return ""
	}
	switch {
	case a.Pattern != Literal:
		return "a topic filter is no prefix: it may end in /#"
	case a.Operation != Read && a.Operation != Write && a.Operation != All:
		return "topic filters are read and written, nothing else"
	}
	filter := a.Name[len(FilterMark):]
	if filter == "" || strings.HasPrefix(filter, "$share/") {
		return "a topic filter is not empty and not shared"
	}
	for more := true; more; {
		var level string
		if level, filter, more = strings.Cut(filter, "/"); level != "+" && (level != "#" || more) && strings.ContainsAny(level, "+#\x00") {
			return "in a topic filter + is a whole level, and # the last one"
		}
	}
	return ""
}

// Publication is a topic name or a topic filter of an MQTT client.
type Publication struct {
	// Kafka is the Kafka topic the message is in, empty where there are several or none.
	Kafka string
	// Topic is the MQTT topic name, or the filter.
	Topic string
	// Client is the client's identifier.
	Client string
}

// person is who a filter's %c and %u stand for.
type person struct{ client, user string }

// level is a level of an entry's filter with what %c and %u stand for in its place; false when they stand for nothing that
// can be one level. What is put in is text: a + or # in it is no wildcard, and matches no topic name.
func (who person) level(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	for _, of := range [...]struct{ mark, text string }{{"%c", who.client}, {"%u", who.user}} {
		if strings.Contains(s, of.mark) && (of.text == "" || strings.ContainsAny(of.text, "/+#%")) {
			return "", false
		}
		s = strings.ReplaceAll(s, of.mark, of.text)
	}
	return s, true
}

// relation is how an entry's filter and a client's filter, or a topic name, meet.
type relation uint8

const (
	apart    relation = iota // no topic matches both
	overlaps                 // some may
	covers                   // whatever matches the client's matches the entry's
)

// meet compares an entry's filter with a client's filter or a topic name, level by level.
func meet(entry, wanted string, who person) relation {
	// A wildcard in the first level matches no topic that starts with $ [MQTT-4.7.2-1].
	if wild(entry) && strings.HasPrefix(wanted, "$") || wild(wanted) && strings.HasPrefix(entry, "$") {
		return apart
	}
	whole := covers
	for entryMore, wantedMore := true, true; ; {
		var e, w string
		if entryMore {
			if e, entry, entryMore = strings.Cut(entry, "/"); e == "#" {
				return whole
			}
		} else if !wantedMore {
			return whole
		} else if wanted == "#" { // which takes the level above it too
			return overlaps
		} else {
			return apart
		}
		if !wantedMore { // the entry has a level more: only /# takes the level above it (4.7.1.2)
			if e == "#" {
				return whole
			}
			return apart
		}
		if w, wanted, wantedMore = strings.Cut(wanted, "/"); w == "#" {
			return overlaps
		}
		text, ok := who.level(e)
		switch {
		case !ok:
			return apart
		case e == "+" || text == w && w != "+":
		case w == "+":
			whole = overlaps
		default:
			return apart
		}
	}
}

func wild(filter string) bool {
	return strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")
}

// filters looks at the entries about filters that hold for the principal at the host: denied says that one denies op to
// all of the wanted filter or topic name, allowed that one allows it to so much of it.
func (s *ACLs) filters(p Principal, host string, op Operation, m Publication, much relation) (allowed, denied bool) {
	if s == nil {
		return false, false
	}
	who := person{client: m.Client}
	if p != Anonymous {
		who.user = p.Name()
	}
	x := s.find()
	for _, name := range [...]Principal{p, anyone} {
		for _, a := range x.filters[name] {
			if a.Operation != op && a.Operation != All || a.Host != Wildcard && a.Host != host {
				continue
			}
			filter, _ := a.filterOf()
			switch how := meet(filter, m.Topic, who); {
			case how == apart:
			case a.Permission == Allow:
				allowed = allowed || how >= much
			case how == covers:
				return false, true
			}
		}
	}
	return allowed, false
}

// AllowedTopic says whether the session's principal may read or write messages of an MQTT topic name in a Kafka topic: no
// entry about the one or the other denies it, and an entry about either allows it. op is Read or Write.
func (z *Authorizer) AllowedTopic(s *Session, op Operation, m Publication) bool {
	if z == nil || z.super(s) {
		return true
	}
	if s.Principal == "" {
		return false
	}
	acls := z.ACLs()
	allowed, denied := acls.filters(s.Principal, s.Host, op, m, covers)
	if denied || m.Kafka == "" {
		return allowed && !denied
	}
	byName, denied := acls.judge(s.Principal, s.Host, op, TopicNamed(m.Kafka))
	return !denied && (allowed || byName)
}

// MayMatch says whether there can be a message the session's principal may read that matches an MQTT topic filter.
// reaches says whether messages of a Kafka topic may match the filter; topics are those that exist.
func (z *Authorizer) MayMatch(s *Session, m Publication, topics []string, reaches func(topic string) bool) bool {
	if z == nil || z.super(s) {
		return true
	}
	if s.Principal == "" {
		return false
	}
	acls := z.ACLs()
	allowed, denied := acls.filters(s.Principal, s.Host, Read, m, overlaps)
	if denied || allowed {
		return !denied
	}
	for _, a := range acls.All() {
		if a.Type != Topic || a.Permission != Allow || !a.who(s.Principal, s.Host) || !a.allows(Read) {
			continue
		}
		if _, filter := a.filterOf(); filter {
			continue
		}
		if a.Pattern == Literal && a.Name != Wildcard { // it may be made later
			if acls.Allows(s.Principal, s.Host, Read, TopicNamed(a.Name)) && reaches(a.Name) {
				return true
			}
			continue
		}
		known := false
		for _, name := range topics {
			if (a.Pattern == Literal || strings.HasPrefix(name, a.Name)) && reaches(name) {
				known = true
				if acls.Allows(s.Principal, s.Host, Read, TopicNamed(name)) {
					return true
				}
			}
		}
		if !known && acls.AllowsAny(s.Principal, s.Host, Read, Topic) {
			return true // of topics that do not exist yet nothing more can be said
		}
	}
	return false
}
