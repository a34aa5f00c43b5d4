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

// Header is a record header a rule adds. Its key may not start with payload.Prefix.
type Header struct{ Key, Value string }

// Reverse gives records without an mqtt.topic header (born in Kafka or a sensor) their MQTT topic. Topic is the Kafka
// topic's name, in which {name} stands for one or more characters; MQTT is a template with those names, {kafka.topic},
// {kafka.key} and {kafka.partition}. A rule whose result is not a topic name (a binary key) passes to the next.
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
}

// Router is a compiled set of rules. It is immutable and safe for concurrent use.
type Router struct {
	rules   []rule
	reverse []reverse
}

type rule struct {
	name      string
	filter    *filter
	topic     template
	fixed     string // the topic, when it has no variables
	key       template
	partition int32
	headers   []struct {
		key   string
		value template
	}
}

type reverse struct {
	name  string
	topic template
	vars  []string
	mqtt  template
}

// New compiles rules and reverse rules and adds the defaults behind them: "#" to DefaultTopic with the MQTT topic as
// key; records of DefaultTopic under their key, records of any other topic under the topic's name. An error names the
// rule: a bad filter or template, or a rule that can never match because an earlier one takes everything it would.
func New(rules []Rule, reverses []Reverse) (*Router, error) {
	r := new(Router)
	for i, in := range rules {
		c, err := compile(in)
		if err != nil {
			return nil, fmt.Errorf("mqtt route %s: %w", nameOf(in.Name, i), err)
		}
		c.name = nameOf(in.Name, i)
		if j := slices.IndexFunc(r.rules, func(e rule) bool { return e.filter.covers(c.filter) }); j >= 0 {
			return nil, fmt.Errorf("mqtt route %s: can never match: route %s before it takes every topic of %q",
				c.name, r.rules[j].name, in.Filter)
		}
		r.rules = append(r.rules, c)
	}
	all, err := compile(Rule{Filter: "#", Topic: DefaultTopic})
	if err != nil {
		return nil, err
	}
	all.name = "default"
	if !slices.ContainsFunc(r.rules, func(e rule) bool { return e.filter.covers(all.filter) }) {
		r.rules = append(r.rules, all)
	}
	for i, in := range append(slices.Clone(reverses),
		Reverse{"default", DefaultTopic, "{kafka.key}"}, Reverse{"default", "{any}", "{kafka.topic}"}) {
		c, err := compileReverse(in)
		if err != nil {
			return nil, fmt.Errorf("mqtt reverse route %s: %w", nameOf(in.Name, i), err)
		}
		c.name = nameOf(in.Name, i)
		r.reverse = append(r.reverse, c)
	}
	return r, nil
}

func nameOf(name string, i int) string {
	if name == "" {
		return "#" + strconv.Itoa(i+1)
	}
	return strconv.Quote(name)
}

func compile(in Rule) (rule, error) {
	f, why := parseFilter(in.Filter)
	if f == nil {
		return rule{}, fmt.Errorf("filter %q %s", in.Filter, why)
	}
	if strings.HasPrefix(in.Filter, "$SYS/") || strings.HasPrefix(in.Filter, "$share/") {
		return rule{}, fmt.Errorf("filter %q names topics that clients cannot publish to", in.Filter)
	}
	known := func(name string) bool { return name == payload.Topic || name == payload.Client || f.has(name) }
	if in.Key == "" {
		in.Key = "{" + payload.Topic + "}"
	}
	c := rule{filter: f, partition: -1}
	var err error
	if c.topic, err = parseTemplate(in.Topic, known); err != nil {
		return rule{}, fmt.Errorf("topic %q %w", in.Topic, err)
	}
	if text, ok := c.topic.constant(); ok {
		if c.fixed, ok = TopicName(text); !ok || c.fixed != text {
			return rule{}, fmt.Errorf("topic %q is not a name Kafka allows for a topic of clients", in.Topic)
		}
	}
	if c.key, err = parseTemplate(in.Key, known); err != nil {
		return rule{}, fmt.Errorf("key %q %w", in.Key, err)
	}
	if in.Partition != nil {
		if c.partition = *in.Partition; c.partition < 0 {
			return rule{}, fmt.Errorf("partition %d is negative", c.partition)
		}
	}
	for _, h := range in.Headers {
		if strings.HasPrefix(h.Key, payload.Prefix) || !payload.Text(h.Key) {
			return rule{}, fmt.Errorf("header key %q is reserved or not a string", h.Key)
		}
		v, err := parseTemplate(h.Value, known)
		if err != nil {
			return rule{}, fmt.Errorf("header %q: value %q %w", h.Key, h.Value, err)
		}
		c.headers = append(c.headers, struct {
			key   string
			value template
		}{h.Key, v})
	}
	return c, nil
}

func compileReverse(in Reverse) (reverse, error) {
	c := reverse{}
	var err error
	c.topic, err = parseTemplate(in.Topic, func(name string) bool {
		if !validName(name) || slices.Contains(c.vars, name) {
			return false
		}
		c.vars = append(c.vars, name)
		return true
	})
	if err != nil {
		return c, fmt.Errorf("topic %q %w", in.Topic, err)
	}
	for i := 1; i < len(c.topic); i++ {
		if c.topic[i].variable && c.topic[i-1].variable {
			return c, fmt.Errorf("topic %q has two captures with nothing between them", in.Topic)
		}
	}
	if len(c.topic) == 0 {
		return c, fmt.Errorf("topic is empty")
	}
	if c.mqtt, err = parseTemplate(in.MQTT, func(name string) bool {
		return strings.HasPrefix(name, "kafka.") && slices.Contains(kafkaVars, name) || slices.Contains(c.vars, name)
	}); err != nil {
		return c, fmt.Errorf("MQTT topic %q %w", in.MQTT, err)
	}
	if text, ok := c.mqtt.constant(); ok && !validTopic(text) {
		return c, fmt.Errorf("MQTT topic %q is not a topic name clients may see", in.MQTT)
	}
	return c, nil
}

var kafkaVars = []string{"kafka.topic", "kafka.key", "kafka.partition"}

// validTopic is an MQTT topic name that is no $-topic: nothing outside the server makes those [MQTT-4.7.2-1].
func validTopic(s string) bool {
	return s != "" && payload.Text(s) && !strings.ContainsAny(s, "+#") && s[0] != '$'
}

// TopicName maps s to a legal Kafka topic name clients may write, as Rule says. ok is false when there is none.
func TopicName(s string) (name string, ok bool) {
	legal := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
	}
	if strings.IndexFunc(s, func(c rune) bool { return !legal(c) }) >= 0 {
		s = strings.Map(func(c rune) rune {
			if legal(c) {
				return c
			}
			return '-'
		}, s)
	}
	return s, s != "" && s != "." && s != ".." && len(s) <= 249 && !strings.HasPrefix(s, "__")
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
	to.Rule, to.Topic, to.Partition = c.name, c.fixed, c.partition
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
	var values [16]string
	for i := range r.reverse {
		c := &r.reverse[i]
		if len(c.vars) > len(values) || !c.topic.bind(topic, values[:]) {
			continue
		}
		text := c.mqtt.append(nil, func(name string) string {
			switch name {
			case "kafka.topic":
				return topic
			case "kafka.key":
				return string(key)
			case "kafka.partition":
				return strconv.Itoa(int(partition))
			}
			return values[slices.Index(c.vars, name)]
		})
		if utf8.Valid(text) && validTopic(string(text)) {
			return string(text), true
		}
	}
	return "", false
}

// Reaches reports whether records of the Kafka topic may, under these rules, match the MQTT filter. It errs towards
// yes; a no is certain for records these rules wrote and for records without an mqtt.topic header.
func (r *Router) Reaches(mqttFilter, topic string) bool {
	if strings.ContainsAny(mqttFilter, "{}") {
		return true // braces mean nothing in a client's filter; not worth a second parser
	}
	f, _ := parseFilter(mqttFilter)
	if f == nil {
		return false
	}
	return r.reachesForward(f, topic) || r.reachesReverse(f, topic)
}

func (r *Router) reachesForward(f *filter, topic string) bool {
	for i := range r.rules {
		c := &r.rules[i]
		if !c.filter.overlaps(f) {
			continue
		}
		if c.fixed != "" {
			if c.fixed == topic {
				return true
			}
		} else if c.topic.matches(topic, func(name string) (string, bool) { return c.narrow(f, name) }) {
			return true
		}
		if c.filter.covers(f) {
			return false // no topic of f gets past this rule
		}
	}
	return false
}

// narrow tells what a capture must be when the client's filter has a literal in its place.
func (c *rule) narrow(f *filter, name string) (string, bool) {
	for i, l := range c.filter.levels {
		if l.kind == single && l.text == name && i < len(f.levels) && f.levels[i].kind == literal {
			// The name's illegal characters become '-' one by one, so mapping the part is mapping the whole.
			mapped, _ := TopicName(f.levels[i].text)
			return mapped, true
		}
	}
	return "", false
}

func (r *Router) reachesReverse(f *filter, topic string) bool {
	var values [16]string
	for i := range r.reverse {
		c := &r.reverse[i]
		if len(c.vars) > len(values) || !c.topic.bind(topic, values[:]) {
			continue
		}
		// Expand up to the first part only a record knows, then anything may follow.
		var text []byte
		open := false
		for _, p := range c.mqtt {
			switch {
			case !p.variable:
				text = append(text, p.text...)
			case p.text == "kafka.topic":
				text = append(text, topic...)
			case p.text == "kafka.key" || p.text == "kafka.partition":
				open = true
			default:
				text = append(text, values[slices.Index(c.vars, p.text)]...)
			}
			if open {
				break
			}
		}
		g := &filter{multi: open}
		levels := strings.Split(string(text), "/")
		if open {
			levels = levels[:len(levels)-1]
		}
		for _, l := range levels {
			g.levels = append(g.levels, level{literal, l})
		}
		if g.overlaps(f) {
			return true
		}
	}
	return false
}
