package broker

import (
	"fmt"
	"maps"
	"slices"

	"millrace/bridge/route"
	"millrace/platform/config"
)

// NewRouter compiles the routing rules of the configuration; their names say where in the file they stand. The error is
// route.Problems.
func NewRouter(c *config.MQTT) (*route.Router, error) {
	rules := make([]route.Rule, len(c.Routes))
	for i, r := range c.Routes {
		rules[i] = route.Rule{Name: onLine(r.Line), Filter: r.Filter, Topic: r.Topic, Key: r.Key}
		if r.Partition >= 0 {
			rules[i].Partition = &r.Partition
		}
		for _, key := range slices.Sorted(maps.Keys(r.Headers)) {
			rules[i].Headers = append(rules[i].Headers, route.Header{Key: key, Value: r.Headers[key]})
		}
	}
	reverses := make([]route.Reverse, len(c.Reverses))
	for i, r := range c.Reverses {
		reverses[i] = route.Reverse{Name: onLine(r.Line), Topic: r.Topic, MQTT: r.MQTTTopic}
	}
	return route.New(rules, reverses)
}

func onLine(n int) string { return fmt.Sprintf("on line %d", n) }
