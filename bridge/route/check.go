package route

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// fresh is a level, or a character, that no filter or pattern names: MQTT and Kafka both refuse it.
const fresh = "\x00"

// shadowed says that the rules before c take every topic of it, alone or together, and which. The answer is exact: there
// are more names than rules can name, so a level that is free in c may be one that no rule names, and whatever takes that
// takes any other. So one topic of each length is enough to ask about; past the longest filter all lengths are alike.
func (r *Router) shadowed(c rule) error {
	longest := len(c.filter.levels)
	for i := range r.rules {
		longest = max(longest, len(r.rules[i].filter.levels))
	}
	var by []string
	for n := len(c.filter.levels); n <= longest+1; n++ {
		if n > len(c.filter.levels) && !c.filter.multi {
			break
		}
		topic := c.filter.witness(n)
		i := slices.IndexFunc(r.rules, func(e rule) bool { return e.filter.match(topic) })
		if i < 0 {
			return nil
		}
		if !slices.Contains(by, r.rules[i].name) {
			by = append(by, r.rules[i].name)
		}
	}
	before, takes := "route "+by[0], "takes"
	if len(by) > 1 {
		before, takes = "routes "+strings.Join(by, " and "), "together take"
	}
	return fmt.Errorf("can never match: %s before it %s every topic of %q; put the narrower one first, or remove one", before, takes,
		c.filter.text)
}

// witness is a topic of n levels that matches f and has a fresh name where f leaves it open.
func (f *filter) witness(n int) string {
	levels := make([]string, n)
	for i := range levels {
		if levels[i] = fresh; i < len(f.levels) && f.levels[i].kind == literal {
			levels[i] = f.levels[i].text
		}
	}
	return strings.Join(levels, "/")
}

// reverseShadowed says that one reverse rule before c always gives a name to every Kafka topic of c.
func (r *Router) reverseShadowed(c reverse) error {
	var values [maxCaptures]string
	topic := string(c.topic.append(nil, func(string) string { return fresh }))
	for i := range r.reverse {
		e := &r.reverse[i]
		sure := !slices.ContainsFunc(e.mqtt, func(p part) bool { return p.variable && p.text == kafkaKey })
		if sure && e.topic.bind(topic, values[:]) {
			return fmt.Errorf("can never match: reverse route %s before it names every record of %q; put the narrower one first, or remove one",
				e.name, c.text)
		}
	}
	return nil
}

// twoWays says that v gives a record an MQTT topic that one of the rules takes elsewhere, see New. It asks what becomes of
// one record, whose key and captures nobody names, so what it says is always so.
func (r *Router) twoWays(v *reverse, rules []rule) error {
	topic := string(v.topic.append(nil, func(name string) string { return "any-" + name }))
	const key = "any-key"
	seen, by, ok := r.ReverseBy(topic, 0, []byte(key))
	if !ok || by != v.index {
		return nil
	}
	i := slices.IndexFunc(rules, func(c rule) bool { return c.filter.match(seen) })
	if i < 0 {
		return nil
	}
	var to Target
	err := rules[i].expand(seen, "any-client", &to)
	usesKey := slices.ContainsFunc(v.mqtt, func(p part) bool { return p.variable && p.text == kafkaKey })
	why := ""
	switch {
	case err != nil:
		why = "to no topic at all, because its name is not one Kafka allows"
	case to.Topic != topic:
		why = "to " + strconv.Quote(to.Topic)
	case usesKey && string(to.Key) != key:
		why = fmt.Sprintf("there under another key, %q", to.Key)
	default:
		return nil
	}
	return fmt.Errorf("maps two ways: a record of %q with key %q is seen as %q, and what MQTT clients publish there goes %s by route %s; "+
		"make them each other's inverse, or put a route for what the reverse rule gives before it", topic, key, seen, why, rules[i].name)
}
