package mqtt

import (
	"strings"

	"millrace/bridge/route"
)

// certificates is where the births of Sparkplug 3.0 are kept, by a server that is Sparkplug Aware (there 10.1.4).
//
// There is no setting for it: it does nothing where nobody publishes births, and a birth, which comes once in a connection,
// costs one record more. What is optional in being aware is not done: the timestamp in an NDEATH stays the client's
// [tck-id-conformance-mqtt-aware-ndeath-timestamp], because payloads are nobody's to change; the record's own says when
// the will went out.
const certificates = "$sparkplug/certificates/"

// certificate is the topic the birth published to topic is kept under, "" for everything else:
// spBv1.0/GROUP/NBIRTH/NODE and spBv1.0/GROUP/DBIRTH/NODE/DEVICE [tck-id-conformance-mqtt-aware-nbirth-mqtt-topic]
// [tck-id-conformance-mqtt-aware-dbirth-mqtt-topic].
func certificate(topic string) string {
	rest, ok := strings.CutPrefix(topic, "spBv1.0/")
	if !ok {
		return ""
	}
	group, rest, _ := strings.Cut(rest, "/")
	kind, rest, _ := strings.Cut(rest, "/")
	node, device, more := strings.Cut(rest, "/")
	if group == "" || node == "" || !(kind == "NBIRTH" && !more || kind == "DBIRTH" && device != "" && !strings.Contains(device, "/")) {
		return ""
	}
	return certificates + topic
}

// reaches is Router.Reaches for the topics the door reads: of the retained messages the certificates are also delivered
// when they come, for nothing else in the log has their topics.
func reaches(r *route.Router, filter, topic string) bool {
	if topic == retainedTopic {
		first, _, _ := strings.Cut(filter, "/")
		return first == "$sparkplug"
	}
	return r.Reaches(filter, topic)
}

// live reports whether the message is delivered when it comes. The retained messages are not, for the topic a message was
// routed to has it already; but for the certificates.
func (m *message) live(st *stream) bool {
	return st.topic != retainedTopic || strings.HasPrefix(m.topic, certificates)
}
