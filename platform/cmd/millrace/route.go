package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"millrace/bridge/mqtt/packet"
	"millrace/bridge/route"
	"millrace/broker"
	"millrace/broker/record"
	"millrace/platform/config"
)

// routed is where an MQTT publish goes, and under which MQTT topic a record is seen.
type routed struct {
	Rule       int            `json:"rule"` // from 1; 0: the default
	Line       int            `json:"line,omitempty"`
	Text       string         `json:"text"`
	MQTT       string         `json:"mqtt"`
	Topic      string         `json:"topic"`
	Partition  int32          `json:"partition"`
	ByKey      bool           `json:"by_key"`
	Partitions int32          `json:"partitions,omitempty"`
	Key        any            `json:"key"`
	Headers    []routedHeader `json:"headers,omitempty"`
	Back       *routed        `json:"back,omitempty"` // a Kafka client's record there, with that key
}

type routedHeader struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type routeFlags struct {
	file, client, topic, key string
	partition, partitions    int32
	keyed                    bool
}

func (c *command) route() *cobra.Command {
	var f routeFlags
	test := &cobra.Command{
		Use: "test [MQTT-TOPIC]", Short: "Say where a message goes and where a record is seen", Args: cobra.MaximumNArgs(1),
		Long: "Say which rule takes what MQTT clients publish to MQTT-TOPIC, and what record it becomes; with --topic, which rule\nnames a record that did not come over MQTT, and its MQTT topic. It asks the file, not a broker. Exit code 1: no rule\ndoes.",
		Example: "  millrace route test sensors/roof/temp --config millrace.toml\n" +
			"  millrace route test --topic sensors.climate --key roof --config millrace.toml",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.keyed = cmd.Flags().Changed("key")
			cfg, err := load(f.file)
			if err != nil {
				return err
			}
			router, err := broker.NewRouter(&cfg.MQTT)
			if err != nil {
				return coded{err, exitUsage} // load has checked it
			}
			if !cmd.Flags().Changed("partitions") {
				f.partitions = cfg.Broker.NumPartitions
			}
			if f.partitions < 1 {
				return fail(exitUsage, "--partitions %d: a topic has one or more", f.partitions)
			}
			if len(args) == 1 {
				if f.topic != "" || f.keyed || cmd.Flags().Changed("partition") {
					return fail(exitUsage, "--topic, --key and --partition are of a record: MQTT-TOPIC or those, not both")
				}
				return c.routeForth(router, &cfg.MQTT, args[0], f)
			}
			if f.topic == "" {
				return fail(exitUsage, "name an MQTT topic, or the Kafka topic of a record with --topic")
			}
			return c.routeBack(router, &cfg.MQTT, f)
		},
	}
	flags := test.Flags()
	flags.StringVar(&f.file, "config", "", "configuration file; default: the default rules")
	flags.StringVar(&f.client, "client", "client", "identifier of the MQTT client that publishes, for {mqtt.client}")
	flags.Int32Var(&f.partitions, "partitions", 0, "of the Kafka topic; default: num.partitions of the file")
	flags.StringVar(&f.topic, "topic", "", "Kafka topic of a record")
	flags.StringVar(&f.key, "key", "", "its key")
	flags.Int32Var(&f.partition, "partition", 0, "its partition")
	return group("route", "Try the routing rules between MQTT and Kafka topics", test)
}

func (c *command) routeForth(router *route.Router, m *config.MQTT, topic string, f routeFlags) error {
	if !packet.ValidTopic(topic) {
		return fail(exitUsage, "%q is no topic name: it is empty, has a wildcard or is not a string without U+0000", topic)
	}
	var to route.Target
	if err := router.Route(topic, f.client, &to); err != nil {
		return fail(exitFailed, "%s: %w", topic, err)
	}
	r := routed{
		Text: `filter = "#"`, MQTT: topic, Topic: to.Topic, Partition: to.Partition, ByKey: to.Partition < 0,
		Partitions: f.partitions, Key: textOrBytes(to.Key),
	}
	if to.Index < len(m.Routes) {
		of := m.Routes[to.Index]
		r.Rule, r.Line, r.Text = to.Index+1, of.Line, "filter = "+strconv.Quote(of.Filter)
	}
	if r.ByKey {
		r.Partition = record.PartitionForKey(to.Key, int(f.partitions))
	}
	if r.Partition >= f.partitions {
		c.note("a topic of %d partitions has no partition %d: what is published is refused until there are more", f.partitions, r.Partition)
	}
	for _, h := range to.Headers {
		r.Headers = append(r.Headers, routedHeader(h))
	}
	if back, ok := seen(router, m, to.Topic, r.Partition, to.Key); ok {
		r.Back = &back
	}
	if c.format == "json" {
		return c.json(r)
	}
	rows := []string{"rule\t" + r.rule(), "topic\t" + r.Topic, "partition\t" + strconv.Itoa(int(r.Partition))}
	if r.ByKey {
		rows[2] += fmt.Sprintf(" of %d, by the key", r.Partitions)
	}
	rows = append(rows, "key\t"+printable(to.Key))
	for _, h := range r.Headers {
		rows = append(rows, "header\t"+h.Key+": "+printable([]byte(h.Value)))
	}
	rows = append(rows, "seen as\t"+printable([]byte(topic)))
	if r.Back != nil {
		rows = append(rows, "born in Kafka\t"+printable([]byte(r.Back.MQTT))+", by rule "+r.Back.rule())
	}
	return c.rows(rows)
}

// routeBack answers for a record that did not come over MQTT.
func (c *command) routeBack(router *route.Router, m *config.MQTT, f routeFlags) error {
	if name, ok := route.TopicName(f.topic); !ok || name != f.topic {
		return fail(exitUsage, "--topic %q is not a name Kafka allows clients to write to", f.topic)
	}
	var key []byte
	if f.keyed {
		key = []byte(f.key)
	}
	r, ok := seen(router, m, f.topic, f.partition, key)
	if !ok {
		return fail(exitFailed, "%s: no reverse rule names a record with key %q", f.topic, f.key)
	}
	if c.format == "json" {
		return c.json(r)
	}
	return c.rows([]string{"rule\t" + r.rule(), "seen as\t" + printable([]byte(r.MQTT))})
}

// seen is the MQTT topic of a record that did not come over MQTT.
func seen(router *route.Router, m *config.MQTT, topic string, partition int32, key []byte) (routed, bool) {
	name, index, ok := router.ReverseBy(topic, partition, key)
	r := routed{Text: `topic = "{any}", mqtt_topic = "{kafka.topic}"`, MQTT: name, Topic: topic, Partition: partition, Key: textOrBytes(key)}
	switch {
	case index < len(m.Reverses):
		of := m.Reverses[index]
		r.Rule, r.Line = index+1, of.Line
		r.Text = fmt.Sprintf("topic = %q, mqtt_topic = %q", of.Topic, of.MQTTTopic)
	case index == len(m.Reverses):
		r.Text = fmt.Sprintf("topic = %q, mqtt_topic = %q", route.DefaultTopic, "{kafka.key}")
	}
	return r, ok
}

// rule is the rule as a person finds it again.
func (r *routed) rule() string {
	if r.Rule == 0 {
		return "default: " + r.Text
	}
	return fmt.Sprintf("%d, on line %d: %s", r.Rule, r.Line, r.Text)
}

// rows prints names and values in two columns.
func (c *command) rows(rows []string) error { return c.table(rows[0], rows[1:]) }

// printable is text as it is where a terminal can show it in one line, and quoted else.
func printable(p []byte) string {
	s := string(p)
	if q := strconv.Quote(s); s == "" || strings.Trim(s, " ") != s || q[1:len(q)-1] != s {
		return q
	}
	return s
}
