package config

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Show writes the configuration as a file that Parse reads back to the same.
func (c *Config) Show(w io.Writer) error {
	var b strings.Builder
	for _, t := range tables {
		section(&b, "["+t.name+"]", t.settings(c))
	}
	for _, t := range c.Topics {
		fmt.Fprintf(&b, "\n[topic.%s]\n", quote(t.Pattern))
		for _, k := range slices.Sorted(maps.Keys(t.Config)) {
			fmt.Fprintf(&b, "%s = %s\n", k, quote(t.Config[k]))
		}
	}
	for i := range c.MQTT.Places {
		section(&b, "[[mqtt.listener]]", placeSettings(&c.MQTT.Places[i]))
	}
	for i := range c.MQTT.Routes {
		section(&b, "[[mqtt.route]]", routeSettings(&c.MQTT.Routes[i]))
	}
	for i := range c.MQTT.Reverses {
		section(&b, "[[mqtt.reverse]]", reverseSettings(&c.MQTT.Reverses[i]))
	}
	for i := range c.Buses {
		section(&b, "[[bus]]", busSettings(&c.Buses[i]))
	}
	for i := range c.Sensors {
		section(&b, "[[sensor]]", sensorSettings(&c.Sensors[i]))
	}
	for i := range c.FRAMs {
		section(&b, "[[fram]]", framSettings(&c.FRAMs[i]))
	}
	for i := range c.Upstreams {
		u := &c.Upstreams[i]
		section(&b, "[[upstream]]", upstreamSettings(u))
		for j := range u.Classes {
			section(&b, "[[upstream.class]]", upstreamClassSettings(&u.Classes[j]))
		}
	}
	_, err := io.WriteString(w, strings.TrimPrefix(b.String(), "\n"))
	return err
}

// Values is the configuration by dotted key, for output as JSON.
func (c *Config) Values() map[string]any {
	values := map[string]any{}
	for _, t := range tables {
		values[t.name] = valuesOf(t.settings(c))
	}
	topics := map[string]any{}
	for _, t := range c.Topics {
		topics[t.Pattern] = t.Config
	}
	values["topic"] = topics
	values["mqtt.listener"] = each(c.MQTT.Places, placeSettings)
	values["mqtt.route"] = each(c.MQTT.Routes, routeSettings)
	values["mqtt.reverse"] = each(c.MQTT.Reverses, reverseSettings)
	values["bus"] = each(c.Buses, busSettings)
	values["sensor"] = each(c.Sensors, sensorSettings)
	values["fram"] = each(c.FRAMs, framSettings)
	links := each(c.Upstreams, upstreamSettings)
	for i := range links {
		links[i]["class"] = each(c.Upstreams[i].Classes, upstreamClassSettings)
	}
	values["upstream"] = links
	return values
}

// BrokerSettings are the keys of [broker] as Kafka's DescribeConfigs writes them: times in ms, sizes in bytes, lists with
// commas.
func (c *Config) BrokerSettings() map[string]string {
	settings := map[string]string{}
	for _, s := range brokerSettings(c) {
		switch v := s.bind.get().(type) {
		case []string:
			settings[s.key] = strings.Join(v, ",")
		case string:
			settings[s.key] = v
			if n, err := parseSize(v); err == nil && strings.HasSuffix(s.key, ".bytes") {
				settings[s.key] = strconv.FormatInt(n, 10)
			}
		default:
			settings[s.key] = fmt.Sprint(v)
		}
	}
	return settings
}

func each[T any](list []T, settings func(*T) []setting) []map[string]any {
	out := make([]map[string]any, len(list))
	for i := range list {
		out[i] = valuesOf(settings(&list[i]))
	}
	return out
}

func valuesOf(settings []setting) map[string]any {
	values := map[string]any{}
	for _, s := range settings {
		values[s.key] = s.bind.get()
	}
	return values
}

func section(b *strings.Builder, header string, settings []setting) {
	fmt.Fprintf(b, "\n%s\n", header)
	for _, s := range settings {
		if v := s.bind.get(); v != nil {
			fmt.Fprintf(b, "%s = %s\n", s.key, literal(v))
		}
	}
}

func literal(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case []string:
		words := make([]string, len(v))
		for i, w := range v {
			words[i] = quote(w)
		}
		return "[" + strings.Join(words, ", ") + "]"
	case map[string]string:
		words := make([]string, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			words = append(words, quote(k)+" = "+quote(v[k]))
		}
		return "{" + strings.Join(words, ", ") + "}"
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// quote is a TOML basic string: Go's escapes for what has no plain form there are not all TOML's.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
