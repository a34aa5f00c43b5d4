package route

import (
	"slices"
	"strings"
)

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
	var values [maxCaptures]string
	for i := range r.reverse {
		c := &r.reverse[i]
		if !c.topic.bind(topic, values[:]) {
			continue
		}
		// Expand up to the first part only a record knows, then anything may follow.
		var text []byte
		open := false
		for _, p := range c.mqtt {
			switch {
			case !p.variable:
				text = append(text, p.text...)
			case p.text == kafkaTopic:
				text = append(text, topic...)
			case p.text == kafkaKey || p.text == kafkaPartition:
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
		if len(g.levels) == 0 {
			g.levels = []level{{kind: single}}
		}
		if g.overlaps(f) {
			return true
		}
	}
	return false
}
