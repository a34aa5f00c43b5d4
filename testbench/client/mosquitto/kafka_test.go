package mosquitto

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// MQTT 5 properties are record headers to kcat and franz-go, and properties again to a subscriber.
func TestPropertiesAreHeaders(t *testing.T) {
	p := start(t, "")
	reader := subWith(t, p, "%C|%D|%E|%F|%R|%P", "-V", "mqttv5", "-q", "1", "-t", "properties/#")
	pub(t, p, "", "-V", "mqttv5", "-q", "1", "-i", "writer", "-t", "properties/all", "-m", "payload",
		"-D", "publish", "user-property", "name", "one", "-D", "publish", "user-property", "name", "two é",
		"-D", "publish", "user-property", "mqtt.qos", "mine",
		"-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", "answers/here",
		"-D", "publish", "correlation-data", "id-7", "-D", "publish", "message-expiry-interval", "3600",
		"-D", "publish", "payload-format-indicator", "1")
	want := []string{
		"mqtt.topic=properties/all", "mqtt.client=writer", "mqtt.qos=1", "mqtt.payload-format=1", "mqtt.expiry=3600",
		"mqtt.content-type=text/plain", "mqtt.response-topic=answers/here", "mqtt.correlation-data=id-7",
		"name=one", "name=two é", "mqtt.user.mqtt.qos=mine",
	}
	var got []string
	for _, h := range consume(t, p, "mqtt", 1)[0].Headers {
		got = append(got, h.Key+"="+string(h.Value))
	}
	equal(t, "headers", got, want)
	line := kcat(t, p, "", "-C", "-t", "mqtt", "-o", "beginning", "-e", "-q", "-f", `%k|%s|%h`)
	if line != "properties/all|payload|"+strings.Join(want, ",") {
		t.Errorf("kcat reads %q", line)
	}
	m := reader.next()
	fields := strings.SplitN(m.rest, "|", 6)
	if len(fields) != 6 {
		t.Fatalf("%q", m.rest)
	}
	if !slices.Equal(fields[:2], []string{"text/plain", "id-7"}) || fields[3] != "1" || fields[4] != "answers/here" ||
		fields[5] != "name:one name:two é mqtt.qos:mine" {
		t.Errorf("the subscriber has %q", m.rest)
	}
	// The interval is what was sent minus the whole seconds it waited here [MQTT-3.3.2-6].
	var left int
	if _, err := fmt.Sscan(fields[2], &left); err != nil || left > 3600 || left < 3600-int(patience.Seconds()) {
		t.Errorf("%q seconds are left of 3600", fields[2])
	}
}

// Records of Kafka clients reach MQTT subscribers: a plain topic's under its name, those of topic mqtt under their key.
func TestKafkaRecordsReachSubscribers(t *testing.T) {
	p := start(t, "")
	const n = 300
	for _, version := range versions {
		for _, topic := range []string{"readings." + version, "mqtt"} {
			key := "cellar/" + version
			seen := key // the reverse rule of topic mqtt
			if topic != "mqtt" {
				seen = topic
			}
			reader := sub(t, p, "-V", version, "-q", "1", "-t", seen, "-t", "end/"+version)
			var input strings.Builder
			payloads, _ := lines(topic, n)
			for _, payload := range payloads {
				fmt.Fprintf(&input, "%s~%s\n", key, payload)
			}
			kcat(t, p, input.String(), "-P", "-t", topic, "-p", "0", "-K", "~")
			reader.want(messages(seen, "1", "0", payloads)...)
			pub(t, p, "", "-q", "1", "-t", "end/"+version, "-m", "end")
			reader.want(message{topic: "end/" + version, qos: "1", retain: "0", payload: "end"})
			reader.stop()
		}
	}
	// Bytes that are no text, an empty value, headers.
	reader := subWith(t, p, "%P", "-V", "mqttv5", "-q", "1", "-t", "binary")
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	writer := client(t, p, kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("binary"))
	for _, value := range [][]byte{every, {}, []byte("after")} {
		r := &kgo.Record{Value: value, Headers: []kgo.RecordHeader{{Key: "trace", Value: []byte("7")}, {Key: "raw", Value: []byte{0xff}}}}
		if err := writer.ProduceSync(within(t), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		// A header that is no UTF-8 cannot travel as a user property.
		reader.want(message{topic: "binary", qos: "1", retain: "0", payload: string(value), rest: "trace:7"})
	}
}

const routes = `
[[mqtt.route]]
filter = "sensors/{site}/+/{kind}"
topic = "sensors.{kind}"
key = "{site}"

[[mqtt.route]]
filter = "alarms/#"
topic = "alarms"
partition = 2

[[mqtt.route]]
filter = "{vendor}/status"
topic = "status"
key = "{vendor}:{mqtt.client}"
`

func TestRoutesOfAFile(t *testing.T) {
	p := start(t, routes)
	admin := kadm.NewClient(client(t, p))
	if _, err := admin.CreateTopic(within(t), 4, 1, nil, "alarms"); err != nil {
		t.Fatal(err)
	}
	reader := sub(t, p, "-V", "mqttv5", "-q", "1", "-t", "sensors/north/+/temperature")
	const n = 100
	for _, publish := range []struct {
		topic, kafka, key string
		partition         int32
	}{
		{"sensors/north/roof/temperature", "sensors.temperature", "north", 0},
		{"sensors/south/roof/humidity", "sensors.humidity", "south", 0},
		{"sensors/south/a b/odd name", "sensors.odd-name", "south", 0},
		{"alarms/north/fire", "alarms", "alarms/north/fire", 2},
		{"acme/status", "status", "acme:writer", 0},
		{"sensors/north/temperature", "mqtt", "sensors/north/temperature", 0}, // one level too few
	} {
		payloads, input := lines(publish.topic, n)
		pub(t, p, input, "-V", "mqttv311", "-q", "1", "-i", "writer", "-t", publish.topic, "-l")
		records := consume(t, p, publish.kafka, n)
		equal(t, publish.topic, values(records, publish.key), payloads)
		for _, r := range records {
			if r.Partition != publish.partition || len(r.Headers) == 0 || string(r.Headers[0].Value) != publish.topic {
				t.Fatalf("%s: partition %d, want %d; headers %q", publish.topic, r.Partition, publish.partition, r.Headers)
			}
		}
		if publish.kafka == "sensors.temperature" {
			reader.want(messages(publish.topic, "1", "0", payloads)...)
		}
	}
}

// What a rule adds is a header for kcat and no user property for a subscriber; a record of kcat's is seen where the
// reverse rule says, and what is published there goes to the same place.
func TestThereAndBackByTheRulesOfAFile(t *testing.T) {
	p := start(t, `
[[mqtt.route]]
filter = "climate/{site}/{kind}"
topic = "climate.{kind}"
key = "{site}"
headers = { site = "{site}", by = "{mqtt.client}" }

[[mqtt.reverse]]
topic = "climate.{kind}"
mqtt_topic = "climate/{kafka.key}/{kind}"
`)
	reader := subWith(t, p, "%P", "-V", "mqttv5", "-q", "1", "-t", "climate/roof/+")
	pub(t, p, "", "-V", "mqttv5", "-q", "1", "-i", "writer", "-t", "climate/roof/temp", "-m", "1", "-D", "publish", "user-property", "site", "mine")
	reader.want(message{topic: "climate/roof/temp", qos: "1", retain: "0", payload: "1", rest: "site:mine"})
	kcat(t, p, "roof~2\n", "-P", "-t", "climate.temp", "-K", "~", "-H", "unit=C")
	reader.want(message{topic: "climate/roof/temp", qos: "1", retain: "0", payload: "2", rest: "unit:C"})
	got := kcat(t, p, "", "-C", "-t", "climate.temp", "-o", "beginning", "-e", "-q", "-f", `%k|%s|%h\n`)
	if want := "roof|1|mqtt.topic=climate/roof/temp,mqtt.client=writer,mqtt.qos=1,site=mine,mqtt.added=2,by=writer,site=roof\nroof|2|unit=C\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
