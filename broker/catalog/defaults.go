package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Pattern is one [topic."…"] table of the configuration file: settings for the topics whose name matches Match, in which
// `*` stands for any run of characters.
type Pattern struct {
	Match  string
	Config map[string]string
}

// everyTopic is the pattern whose settings lie below those of all others.
const everyTopic = "*"

// ofLinks is what topics have that a link takes to another cluster: the link may be away for longer than the disk has room,
// and what is new is worth more than what nobody has fetched. It lies over [topic."*"], which is written for all.
var ofLinks = map[string]string{"full": "drop-oldest"}

// Defaults is what topics are configured with before they say anything themselves: the built-in defaults, over them the
// file's [topic."*"], over that what topics of a link have, over that the first other pattern, in the file's order, that
// matches the topic's name. Immutable.
type Defaults struct {
	every    map[string]string
	links    []string // patterns
	patterns []Pattern
}

// NewDefaults checks the patterns of a configuration file. The error names pattern, setting and value. links are the patterns
// of topics that a link takes to another cluster.
func NewDefaults(patterns []Pattern, links []string) (*Defaults, error) {
	d := &Defaults{links: slices.Clone(links)}
	for _, p := range patterns {
		if _, err := ParseTopicConfig(p.Config, DefaultTopicConfig()); err != nil {
			return nil, fmt.Errorf("[topic.%q]: %w", p.Match, err)
		}
		if p.Match == everyTopic {
			d.every = maps.Clone(p.Config)
			continue
		}
		d.patterns = append(d.patterns, Pattern{Match: p.Match, Config: maps.Clone(p.Config)})
	}
	return d, nil
}

// Resolve is the configuration of a topic: its own overrides over the defaults of its name. As with ParseTopicConfig the
// result can be used even with an error. A nil Defaults means the built-in ones.
func (d *Defaults) Resolve(topic string, overrides map[string]string) (TopicConfig, error) {
	c, err := ParseTopicConfig(d.static(topic), DefaultTopicConfig())
	if err != nil {
		return c, err
	}
	return ParseTopicConfig(overrides, c)
}

// static is what the file says about a topic.
func (d *Defaults) static(topic string) map[string]string {
	if d == nil {
		return nil
	}
	layers := []map[string]string{d.every}
	if Chosen(d.links, topic) {
		layers = append(layers, ofLinks)
	}
	if at := slices.IndexFunc(d.patterns, func(p Pattern) bool { return Matches(p.Match, topic) }); at >= 0 {
		layers = append(layers, d.patterns[at].Config)
	}
	if len(layers) == 1 {
		return d.every
	}
	out := map[string]string{}
	for _, l := range layers {
		maps.Copy(out, l)
	}
	return out
}

// Chosen says whether a pattern of a list matches a topic's name. A topic of a broker's own is chosen only by a pattern that
// is its name.
func Chosen(patterns []string, topic string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return p == topic || !InternalName(topic) && Matches(p, topic)
	})
}

// Source says where a value comes from; the numbers are DescribeConfigs' (KIP-226).
type Source int8

// The sources Millrace has.
const (
	SourceTopic         Source = 1 // DYNAMIC_TOPIC_CONFIG
	SourceBroker        Source = 2 // DYNAMIC_BROKER_CONFIG
	SourceBrokerDefault Source = 3 // DYNAMIC_DEFAULT_BROKER_CONFIG
	SourceStatic        Source = 4 // STATIC_BROKER_CONFIG: the configuration file
	SourceDefault       Source = 5 // DEFAULT_CONFIG: built in
)

// Synonym is one place a setting could take its value from.
type Synonym struct {
	Name   string
	Value  string
	Source Source
}

// Entry is one setting of one topic or broker with its value and where that comes from.
type Entry struct {
	Setting Setting
	Value   string
	Source  Source
	// Synonyms are all places that give a value, the one that holds first.
	Synonyms []Synonym
}

// Describe lists every setting of a topic, sorted by name, as DescribeConfigs answers it.
func (d *Defaults) Describe(topic string, overrides map[string]string) []Entry {
	return describe(topicSettings, []layer{
		{overrides, SourceTopic, false},
		{d.static(topic), SourceStatic, true},
	})
}

// DescribeBroker lists every setting of a broker, sorted by name. own and all are the dynamic settings of the broker and
// of AllBrokers, static is what the configuration file says.
func DescribeBroker(own, all, static map[string]string) []Entry {
	return describe(brokerSettings, []layer{
		{own, SourceBroker, false},
		{all, SourceBrokerDefault, false},
		{static, SourceStatic, false},
	})
}

// layer is one source of values. With synonym set it is a broker's and shows the setting under its broker name.
type layer struct {
	values  map[string]string
	source  Source
	synonym bool
}

func describe(table []Setting, layers []layer) []Entry {
	out := make([]Entry, 0, len(table))
	for _, s := range table {
		e := Entry{Setting: s}
		brokerName := s.Name
		if s.Synonym != "" {
			brokerName = s.Synonym
		}
		for _, l := range layers {
			// A value that is not valid does not hold, so it is not shown as if it did.
			if v, ok := l.values[s.Name]; ok && s.Check(v) == nil {
				name := s.Name
				if l.synonym {
					name = brokerName
				}
				e.Synonyms = append(e.Synonyms, Synonym{Name: name, Value: v, Source: l.source})
			}
		}
		e.Synonyms = append(e.Synonyms, Synonym{Name: brokerName, Value: s.Default, Source: SourceDefault})
		e.Value, e.Source = e.Synonyms[0].Value, e.Synonyms[0].Source
		if s.Sensitive {
			e.Value = ""
			for i := range e.Synonyms {
				e.Synonyms[i].Value = ""
			}
		}
		out = append(out, e)
	}
	return out
}

// Matches tells whether name fits pattern, in which `*` is any run of characters, also none.
func Matches(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, head)
	if !ok {
		return false
	}
	// Every part between two stars is taken at its first place, the part after the last star at the end.
	for {
		part, next, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		at := strings.Index(name, part)
		if at < 0 {
			return false
		}
		name, rest = name[at+len(part):], next
	}
}
