package mqtt

import (
	"strings"
	"sync"
	"sync/atomic"

	"millrace/bridge/route"
)

// index finds the subscriptions of connected sessions that match a topic, and tells for each Kafka topic whether
// anybody's filter reaches it: what nobody can want is never read.
type index struct {
	router *route.Router

	mu      sync.RWMutex
	root    level
	filters map[string]int // distinct filters and how many subscriptions have them
	topics  map[string]*interest

	sys      atomic.Int32 // subscriptions under $SYS
	sysAdded func()       // called without x.mu after there is one more; nil: nobody cares
}

// interest counts the distinct filters that reach a Kafka topic.
type interest struct{ n atomic.Int32 }

// level is one level of the topic tree. Empty levels are removed.
type level struct {
	next map[string]*level // by name; "+" is the single-level wildcard
	subs []*subscription   // whose filter ends here
	deep []*subscription   // whose filter ends in # here
}

func newIndex(r *route.Router) *index {
	return &index{router: r, filters: make(map[string]int), topics: make(map[string]*interest)}
}

// interest returns the counter of a Kafka topic.
func (x *index) interest(topic string) *interest {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := x.topics[topic]
	if i == nil {
		i = new(interest)
		for f := range x.filters {
			if reaches(x.router, f, topic) {
				i.n.Add(1)
			}
		}
		x.topics[topic] = i
	}
	return i
}

func (x *index) forget(topic string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.topics, topic)
}

func (x *index) count(filter string, d int) {
	if sysFilter(filter) {
		x.sys.Add(int32(d))
	}
	n := x.filters[filter] + d
	if n == 0 {
		delete(x.filters, filter)
	} else {
		x.filters[filter] = n
	}
	if n == 0 || n == 1 && d == 1 {
		for topic, i := range x.topics {
			if reaches(x.router, filter, topic) {
				i.n.Add(int32(d))
			}
		}
	}
}

// add enters s, whose filter is valid.
func (x *index) add(s *subscription) {
	x.enter(s)
	if sysFilter(s.filter) && x.sysAdded != nil {
		x.sysAdded()
	}
}

func (x *index) enter(s *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := &x.root
	for rest, more := s.filter, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "#" {
			l.deep = append(l.deep, s)
			x.count(s.filter, 1)
			return
		}
		if l.next == nil {
			l.next = make(map[string]*level, 1)
		}
		n := l.next[name]
		if n == nil {
			n = new(level)
			l.next[name] = n
		}
		l = n
	}
	l.subs = append(l.subs, s)
	x.count(s.filter, 1)
}

// remove takes s out. It must be in.
func (x *index) remove(s *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.root.remove(s, s.filter, true)
	x.count(s.filter, -1)
}

func (l *level) remove(s *subscription, rest string, more bool) {
	if !more {
		l.subs = without(l.subs, s)
		return
	}
	name, rest, more := strings.Cut(rest, "/")
	if name == "#" {
		l.deep = without(l.deep, s)
		return
	}
	n := l.next[name]
	n.remove(s, rest, more)
	if len(n.next) == 0 && len(n.subs) == 0 && len(n.deep) == 0 {
		delete(l.next, name)
	}
}

func without(list []*subscription, s *subscription) []*subscription {
	for i, e := range list {
		if e == s {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			return list[:len(list)-1]
		}
	}
	return list
}

// match appends to dst every subscription whose filter matches the topic name.
func (x *index) match(topic string, dst []*subscription) []*subscription {
	x.mu.RLock()
	defer x.mu.RUnlock()
	// Wildcards in the first level do not match topics that start with $ [MQTT-4.7.2-1].
	return x.root.match(topic, true, strings.HasPrefix(topic, "$"), dst)
}

func (l *level) match(rest string, more, literal bool, dst []*subscription) []*subscription {
	if !literal {
		dst = append(dst, l.deep...) // # takes the parent level too (4.7.1.2)
	}
	if !more {
		return append(dst, l.subs...)
	}
	name, rest, more := strings.Cut(rest, "/")
	if n := l.next[name]; n != nil {
		dst = n.match(rest, more, false, dst)
	}
	if n := l.next["+"]; n != nil && !literal {
		dst = n.match(rest, more, false, dst)
	}
	return dst
}

// matches reports whether one filter, which is valid, matches a topic name: levels as they are, byte by byte [MQTT-4.7.3-4].
func matches(filter, topic string) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false // [MQTT-4.7.2-1]; a literal first level would differ anyway
	}
	more := true
	for {
		var f, t string
		var deeper bool
		f, filter, deeper = strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		if !more {
			return false
		}
		t, topic, more = strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		if !deeper {
			return !more
		}
	}
}
