package route

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"millrace/bridge/payload"
)

type rule struct {
	name      string
	index     int
	filter    *filter
	topic     template
	fixed     string // the topic, when it has no variables
	key       template
	partition int32
	headers   []header
}

type header struct {
	key   string
	value template
}

type reverse struct {
	name  string
	index int
	text  string // of the Kafka topic
	topic template
	vars  []string
	mqtt  template
}

// What a reverse rule knows of a record.
const (
	kafkaTopic     = "kafka.topic"
	kafkaKey       = "kafka.key"
	kafkaPartition = "kafka.partition"
)

// maxCaptures bounds the captures of a reverse rule.
const maxCaptures = 16

func compile(in Rule) (rule, error) {
	c := rule{partition: -1}
	f, why := parseFilter(in.Filter)
	switch {
	case f == nil:
		return c, fmt.Errorf("filter %q %s", in.Filter, why)
	case Reserved(in.Filter):
		return c, fmt.Errorf("can never match: clients cannot publish to the topics of filter %q, which are the server's own", in.Filter)
	}
	c.filter = f
	known := func(name string) bool { return name == payload.Topic || name == payload.Client || f.has(name) }
	there := "there are " + strings.Join(append(f.names(), payload.Topic, payload.Client), ", ")
	var err error
	if c.topic, err = parseTemplate(in.Topic, known, there); err != nil {
		return c, fmt.Errorf("topic %q %w", in.Topic, err)
	}
	if err := c.topic.nameable(); err != nil {
		return c, fmt.Errorf("topic %q %w", in.Topic, err)
	}
	c.fixed, _ = c.topic.constant()
	if in.Key == "" {
		in.Key = "{" + payload.Topic + "}"
	}
	if c.key, err = parseTemplate(in.Key, known, there); err != nil {
		return c, fmt.Errorf("key %q %w", in.Key, err)
	}
	if in.Partition != nil {
		if c.partition = *in.Partition; c.partition < 0 {
			return c, fmt.Errorf("partition %d is negative; leave it out to have the key choose", c.partition)
		}
	}
	if n := len(in.Headers); n > payload.MaxAdded {
		return c, fmt.Errorf("it adds %d headers, and %d are allowed", n, payload.MaxAdded)
	}
	for _, h := range in.Headers {
		if strings.HasPrefix(h.Key, payload.Prefix) {
			return c, fmt.Errorf("header %q: names that start with %q are the server's own; choose another", h.Key, payload.Prefix)
		}
		if !payload.Text(h.Key) {
			return c, fmt.Errorf("header %q: the name is not a string without U+0000", h.Key)
		}
		v, err := parseTemplate(h.Value, known, there)
		if err != nil {
			return c, fmt.Errorf("header %q: value %q %w", h.Key, h.Value, err)
		}
		c.headers = append(c.headers, header{h.Key, v})
	}
	return c, nil
}

// nameable refuses a template no value of whose variables gives the name of a topic clients may write. What variables
// bring in of other characters becomes '-'; in the template itself it is a mistake.
func (t template) nameable() error {
	n := 0
	for _, p := range t {
		if p.variable {
			continue
		}
		n += len(p.text)
		if i := strings.IndexFunc(p.text, illegal); i >= 0 {
			return fmt.Errorf("is not a name Kafka allows: %q; letters, digits, '.', '_' and '-' are", []rune(p.text[i:])[0])
		}
	}
	text, fixed := t.constant()
	switch _, ok := TopicName(text); {
	case n > nameMax:
		return fmt.Errorf("is not a name Kafka allows: %d characters, and %d are", n, nameMax)
	case len(t) > 0 && !t[0].variable && strings.HasPrefix(t[0].text, "__"):
		return errors.New(`is not a name Kafka allows clients: those that start with "__" are internal topics`)
	case fixed && !ok:
		return errors.New("is not a name Kafka allows")
	}
	return nil
}

func compileReverse(in Reverse) (reverse, error) {
	c := reverse{text: in.Topic}
	var err error
	c.topic, err = parseTemplate(in.Topic, func(name string) bool {
		if !validName(name) || slices.Contains(c.vars, name) {
			return false
		}
		c.vars = append(c.vars, name)
		return true
	}, "a capture has a plain name of its own")
	if err != nil {
		return c, fmt.Errorf("topic %q %w", in.Topic, err)
	}
	for i := 1; i < len(c.topic); i++ {
		if c.topic[i].variable && c.topic[i-1].variable {
			return c, fmt.Errorf("topic %q maps two ways: it has two captures with nothing between them, which says not where one ends", in.Topic)
		}
	}
	switch {
	case len(c.topic) == 0:
		return c, errors.New("topic is empty")
	case len(c.vars) > maxCaptures:
		return c, fmt.Errorf("topic %q has %d captures, and %d are allowed", in.Topic, len(c.vars), maxCaptures)
	}
	if err := c.topic.nameable(); err != nil {
		return c, fmt.Errorf("can never match: topic %q %w", in.Topic, err)
	}
	vars := []string{kafkaTopic, kafkaKey, kafkaPartition}
	there := "there are " + strings.Join(append(slices.Clone(c.vars), vars...), ", ")
	if c.mqtt, err = parseTemplate(in.MQTT, func(name string) bool {
		return slices.Contains(vars, name) || slices.Contains(c.vars, name)
	}, there); err != nil {
		return c, fmt.Errorf("MQTT topic %q %w", in.MQTT, err)
	}
	for i, p := range c.mqtt {
		switch {
		case p.variable:
		case i == 0 && p.text[0] == '$':
			return c, fmt.Errorf("MQTT topic %q starts with $: such topics are the server's own; choose another first level", in.MQTT)
		case strings.ContainsAny(p.text, "+#"), !payload.Text(p.text):
			return c, fmt.Errorf("MQTT topic %q is no topic name: it has a wildcard, or is not a string without U+0000", in.MQTT)
		}
	}
	if len(c.mqtt) == 0 {
		return c, errors.New("MQTT topic is empty")
	}
	return c, nil
}
