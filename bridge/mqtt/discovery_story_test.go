package mqtt_test

import (
	"testing"
	"testing/synctest"

	"millrace/bridge/mqtt/packet"
)

// What devices tell Home Assistant of themselves, as their firmware writes it: abbreviated keys and a base topic, Jinja
// templates with braces and line breaks, units that are not ASCII, a whole device in one message, and no JSON at all.
var discoveries = map[string]string{
	"homeassistant/sensor/0x00158d0001a2b3c4/temperature/config": `{"availability":[{"topic":"zigbee2mqtt/bridge/state","value_template":"{{ value_json.state }}"}],` +
		`"device":{"identifiers":["zigbee2mqtt_0x00158d0001a2b3c4"],"manufacturer":"Aqara","model":"WSDCGQ11LM","name":"Dachboden"},"device_class":"temperature",` +
		`"enabled_by_default":true,"state_class":"measurement","state_topic":"zigbee2mqtt/Dachboden","unique_id":"0x00158d0001a2b3c4_temperature_zigbee2mqtt",` +
		`"unit_of_measurement":"°C","value_template":"{{ value_json.temperature }}"}`,
	"homeassistant/switch/shelly1-E8DB84/relay/config": "{\"~\":\"shellies/shelly1-E8DB84\",\"name\":null,\"cmd_t\":\"~/relay/0/command\",\"stat_t\":\"~/relay/0\",\r\n" +
		"\t\"pl_on\":\"on\",\"pl_off\":\"off\",\"avty_t\":\"~/online\",\"pl_avail\":\"true\",\"dev\":{\"cns\":[[\"mac\",\"E8:DB:84:01:02:03\"]],\"sw\":\"20230913-112003/v1.14.0-gcb84623\"}}\n",
	"homeassistant/binary_sensor/garage/config": `{"name":"Tor ✓","state_topic":"garage/tor","value_template":"{% if value == '1' %}ON{% else %}OFF{% endif %}","icon":"mdi:garage"}`,
	"homeassistant/device/0AFFD2/config": `{"dev":{"ids":"0AFFD2","name":"Keller","mf":"ESPHome"},"o":{"name":"esphome","sw":"2026.10.0"},` +
		`"cmps":{"t":{"p":"sensor","dev_cla":"temperature","unit_of_meas":"°C","val_tpl":"{{ value_json.t | round(1) }}","uniq_id":"0AFFD2t"},"old":{"p":"sensor"}},"stat_t":"keller/state","qos":2}`,
	"homeassistant/device_automation/0x54ef44/action_single/config": "not JSON \x00\xff\xfe",
}

func TestHomeAssistantDiscoveryPassesUnchanged(t *testing.T) {
	both(t, func(w *world, v packet.Version) {
		discover := sub(1, "homeassistant/+/+/config", "homeassistant/+/+/+/config", "homeassistant/status")
		compare := func(p *peer, retained bool, gone string) {
			t.Helper()
			got := 0
			p.each(func(m *packet.Publish) {
				got++
				if want := discoveries[m.Topic]; string(m.Payload) != want || m.Retain != retained || m.Topic == gone || m.QoS != 1 {
					t.Errorf("%s, RETAIN %v: got %q, want %q", m.Topic, m.Retain, m.Payload, want)
				}
			})
			want := len(discoveries)
			if gone != "" {
				want--
			}
			if got != want {
				t.Errorf("%d messages, want %d", got, want)
			}
		}
		live := w.connect(v, "hass").send(discover)
		device := w.connect(v, "device")
		synctest.Wait()
		id := uint16(0)
		retain := func(topic, body string) {
			id++
			p := pub(topic, body, 1, id)
			p.Retain = true
			device.send(p)
			synctest.Wait()
		}
		for topic, body := range discoveries {
			retain(topic, body)
		}
		compare(live, false, "")
		for range 2 {
			compare(w.connect(v, "restarted").send(discover), true, "")
			w.restart()
		}
		// An empty retained message takes a device away: those who are there hear it, those who come do not find it.
		const gone = "homeassistant/binary_sensor/garage/config"
		live, device = w.connect(v, "hass").send(sub(1, gone)), w.connect(v, "device")
		live.each(func(*packet.Publish) {})
		retain(gone, "")
		live.wants(`publish ` + gone + ` "" q1 id2`)
		for range 2 {
			compare(w.connect(v, "restarted").send(discover), true, gone)
			w.restart()
		}
	})
}
