// Package route says which Kafka topic an MQTT publish belongs to, and under which MQTT topic a record that a Kafka
// client wrote is seen. Rules are ordered, the first that matches wins, and they are compiled once.
package route

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/bridge/payload"
)

// DefaultTopic receives what no other rule wants; its key is the full MQTT topic, so each MQTT topic keeps its order.
const DefaultTopic = "mqtt"

// ErrNoRoute is returned for a topic no rule matches (only topics that start with $: the default takes every other).
var ErrNoRoute = errors.New("no rule routes this topic")

// ErrTopicName is returned when a rule expands to something that cannot be the name of a topic clients may write.
var ErrTopicName = errors.New("the rule gives no legal topic name")

// Rule routes MQTT publishes. Filter is an MQTT topic filter in which a whole level may be {name}: a + that remembers
// what it matched. Topic, Key and header values are templates with the captures, {mqtt.topic} and {mqtt.client}.
//
// In an expanded Topic every character Kafka does not allow in a name becomes one '-'; a name that is then empty, "."
// or "..", longer than 249 bytes, or starts with "__" (internal topics) is refused.
type Rule struct {
	Name      string // for messages; empty: its number
	Filter    string
	Topic     string
	Key       string // empty: {mqtt.topic}
	Partition *int32 // nil: by the key's hash, as Kafka's default partitioner does it
	Headers   []Header
}

// Header is a record header a rule adds, for Kafka clients: MQTT subscribers do not get it. Its key may not start with
// payload.Prefix.
type Header struct{ Key, Value string }

// Reverse gives records without an mqtt.topic header (born in Kafka or a sensor) their MQTT topic. Topic is the Kafka
// topic's name, in which {name} stands for one or more characters, as few as what follows it allows and the last as many
// as there are; MQTT is a template with those names, {kafka.topic}, {kafka.key} and {kafka.partition}. A rule whose
// result is not a topic name (a binary key) passes to the next.
type Reverse struct {
	Name  string
	Topic string
	MQTT  string
}

// Target is where a publish goes. A Target may be used again: Key and Headers keep their memory.
type Target struct {
	Topic     string
	Key       []byte
	Partition int32 // -1: by the key
	Headers   []Header
	Rule      string // the name of the rule
	Index     int    // its place in the list, from 0; the default comes after the last
}

// Router is a compiled set of rules. It is immutable and safe for concurrent use.
type Router struct {
	rules   []rule
	reverse []reverse
}

// Problem is what is wrong with one rule.
type Problem struct {
	Reverse bool // of the reverse rules
	Index   int  // its place in the list, from 0
	Name    string
	Err     error
}

func (p *Problem) Error() string {
	kind := "route"
	if p.Reverse {
		kind = "reverse route"
	}
	return fmt.Sprintf("mqtt %s %s: %v", kind, p.Name, p.Err)
}

func (p *Problem) Unwrap() error { return p.Err }

// Problems are all that is wrong with a set of rules, at most one for each, in their order.
type Problems []*Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// New compiles rules and reverse rules and adds the defaults behind them: "#" to DefaultTopic with the MQTT topic as
// key; records of DefaultTopic under their key, records of any other topic under the topic's name. An error is Problems.
// What is wrong with a rule is
//
//   - a filter, template, name or partition that is none;
//   - that it can never match: those before it take every topic it would, alone or together; or what it asks for cannot
//     be (a topic clients cannot publish to, a Kafka topic with another letter than Kafka has);
//   - that a reverse rule maps two ways: the MQTT topic it gives a record, with captures and a key that no rule names, is
//     one that a rule takes to another Kafka topic, or under another key where the reverse rule uses the key. Then one
//     MQTT topic would lie in two places and its order would be lost. A reverse rule whose MQTT topics no rule but the
//     default takes is a view that one only reads. Partitions are not compared: who writes a record chooses its own.
func New(rules []Rule, reverses []Reverse) (*Router, error) {
	r := new(Router)
	var problems Problems
	for i, in := range rules {
		c, err := compile(in)
		c.name, c.index = nameOf(in.Name, i), i
		if err == nil {
			err = r.shadowed(c)
		}
		if err != nil {
			problems = append(problems, &Problem{false, i, c.name, err})
			continue
		}
		r.rules = append(r.rules, c)
	}
	own := len(r.rules)
	for i, in := range reverses {
		c, err := compileReverse(in)
		c.name, c.index = nameOf(in.Name, i), i
		if err == nil {
			err = r.reverseShadowed(c)
		}
		if err != nil {
			problems = append(problems, &Problem{true, i, c.name, err})
			continue
		}
		r.reverse = append(r.reverse, c)
		if len(problems) == 0 { // else the rule this one contradicts may be missing, or one before it
			if err := r.twoWays(&r.reverse[len(r.reverse)-1], r.rules[:own]); err != nil {
				problems = append(problems, &Problem{true, i, c.name, err})
			}
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return r, r.addDefaults(len(rules), len(reverses))
}

func (r *Router) addDefaults(rules, reverses int) error {
	all, err := compile(Rule{Filter: "#", Topic: DefaultTopic})
	if err != nil {
		return err
	}
	all.name, all.index = "default", rules
	if r.shadowed(all) == nil {
		r.rules = append(r.rules, all)
	}
	for i, in := range []Reverse{{"", DefaultTopic, "{kafka.key}"}, {"", "{any}", "{kafka.topic}"}} {
		c, err := compileReverse(in)
		if err != nil {
			return err
		}
		c.name, c.index = "default", reverses+i
		r.reverse = append(r.reverse, c)
	}
	return nil
}

func nameOf(name string, i int) string {
	if name == "" {
		return "#" + strconv.Itoa(i+1)
	}
	return name
}

// Reserved reports whether the first level of a topic or filter is one of those whose messages only the server makes:
// $SYS, and Sparkplug's $sparkplug; and $share, which is no topic. Clients cannot publish there, under any rule.
func Reserved(topic string) bool {
	first, _, _ := strings.Cut(topic, "/")
	return first == "$SYS" || first == "$share" || first == "$sparkplug"
}

// validTopic is an MQTT topic name that is no $-topic: nothing outside the server makes those [MQTT-4.7.2-1].
func validTopic(s string) bool {
	return s != "" && payload.Text(s) && !strings.ContainsAny(s, "+#") && s[0] != '$'
}

// nameMax is the longest name Kafka allows for a topic, in bytes.
const nameMax = 249

// legal reports whether Kafka allows the character in the name of a topic.
func legal(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

func illegal(c rune) bool { return !legal(c) }

// TopicName maps s to a legal Kafka topic name clients may write, as Rule says. ok is false when there is none.
func TopicName(s string) (name string, ok bool) {
	if strings.IndexFunc(s, illegal) >= 0 {
		s = strings.Map(func(c rune) rune {
			if legal(c) {
				return c
			}
			return '-'
		}, s)
	}
	return s, s != "" && s != "." && s != ".." && len(s) <= nameMax && !strings.HasPrefix(s, "__")
}

// Route fills to with where a publish of client to topic goes. It allocates only where the rule's topic or headers have
// variables. The error is ErrNoRoute or ErrTopicName.
func (r *Router) Route(topic, client string, to *Target) error {
	for i := range r.rules {
		c := &r.rules[i]
		if c.filter.match(topic) {
			return c.expand(topic, client, to)
		}
	}
	return ErrNoRoute
}

func (c *rule) expand(topic, client string, to *Target) error {
	value := func(name string) string {
		switch name {
		case payload.Topic:
			return topic
		case payload.Client:
			return client
		}
		return c.filter.capture(topic, name)
	}
	to.Rule, to.Index, to.Topic, to.Partition = c.name, c.index, c.fixed, c.partition
	to.Key = c.key.append(to.Key[:0], value)
	to.Headers = to.Headers[:0]
	if c.fixed == "" {
		name, ok := TopicName(string(c.topic.append(nil, value)))
		if !ok {
			return ErrTopicName
		}
		to.Topic = name
	}
	for _, h := range c.headers {
		to.Headers = append(to.Headers, Header{h.key, string(h.value.append(nil, value))})
	}
	return nil
}

// Reverse names the MQTT topic of a record without an mqtt.topic header. ok is false when no rule gives one.
func (r *Router) Reverse(topic string, partition int32, key []byte) (name string, ok bool) {
	name, _, ok = r.ReverseBy(topic, partition, key)
	return name, ok
}

// ReverseBy is Reverse, with the place of the reverse rule in its list, from 0; the defaults come after the last.
func (r *Router) ReverseBy(topic string, partition int32, key []byte) (name string, index int, ok bool) {
	var values [maxCaptures]string
	for i := range r.reverse {
		c := &r.reverse[i]
		if !c.topic.bind(topic, values[:]) {
			continue
		}
		text := c.mqtt.append(nil, func(name string) string {
			switch name {
			case kafkaTopic:
				return topic
			case kafkaKey:
				return string(key)
			case kafkaPartition:
				return strconv.Itoa(int(partition))
			}
			return values[slices.Index(c.vars, name)]
		})
		if utf8.Valid(text) && validTopic(string(text)) {
			return string(text), c.index, true
		}
	}
	return "", 0, false
}
