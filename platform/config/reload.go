package config

import (
	"maps"
	"reflect"
	"slices"
)

// Diff names what differs between two configurations: what a running broker can take, and what needs a restart, as
// dotted keys in the order of the file.
func Diff(old, next *Config) (live, restart []string) {
	note := func(key string, can bool) {
		if can {
			live = append(live, key)
		} else {
			restart = append(restart, key)
		}
	}
	for _, t := range tables {
		before, after := t.settings(old), t.settings(next)
		for i := range before {
			if !reflect.DeepEqual(before[i].bind.get(), after[i].bind.get()) {
				note(t.name+"."+before[i].key, before[i].live)
			}
		}
	}
	// A topic that exists keeps what it was created with, as in Kafka; new ones start from the new patterns.
	if !slices.EqualFunc(old.Topics, next.Topics, func(a, b Topic) bool {
		return a.Pattern == b.Pattern && maps.Equal(a.Config, b.Config)
	}) {
		note("topic", true)
	}
	if !slices.EqualFunc(old.Upstreams, next.Upstreams, func(a, b Upstream) bool { return a.Same(&b) }) {
		note("upstream", true)
	}
	if !slices.EqualFunc(old.MQTT.Places, next.MQTT.Places, func(a, b MQTTListener) bool {
		a.Line, b.Line = 0, 0
		return a == b
	}) {
		note("mqtt.listener", false)
	}
	if !slices.EqualFunc(old.MQTT.Routes, next.MQTT.Routes, func(a, b Route) bool {
		a.Line, b.Line = 0, 0
		return reflect.DeepEqual(a, b)
	}) {
		note("mqtt.route", false)
	}
	if !slices.EqualFunc(old.MQTT.Reverses, next.MQTT.Reverses, func(a, b Reverse) bool {
		a.Line, b.Line = 0, 0
		return a == b
	}) {
		note("mqtt.reverse", false)
	}
	if !slices.EqualFunc(old.Buses, next.Buses, func(a, b Bus) bool {
		a.Line, b.Line = 0, 0
		return a == b
	}) {
		note("bus", false)
	}
	if !slices.EqualFunc(old.Sensors, next.Sensors, func(a, b Sensor) bool {
		a.Line, b.Line = 0, 0
		return reflect.DeepEqual(a, b)
	}) {
		note("sensor", false)
	}
	if !slices.EqualFunc(old.FRAMs, next.FRAMs, func(a, b FRAM) bool {
		a.Line, b.Line = 0, 0
		return a == b
	}) {
		note("fram", false)
	}
	return live, restart
}

// Merge is old with what a running broker can take from next.
func Merge(old, next *Config) *Config {
	merged := *old
	for _, t := range tables {
		to, from := t.settings(&merged), t.settings(next)
		for i := range to {
			if to[i].live {
				to[i].copy(from[i])
			}
		}
	}
	merged.Topics, merged.Upstreams = next.Topics, next.Upstreams
	return &merged
}

// copy takes the value of another binding of the same setting, which was checked when it was set.
func (s setting) copy(from setting) {
	if err := s.bind.set(from.bind.get()); err != nil {
		panic("config: " + s.key + ": a checked value does not pass its own check: " + err.Error())
	}
}
