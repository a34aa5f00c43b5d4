"""Goes through one plan of talk.Plan with paho-mqtt and prints its talk.Report."""

import json
import queue
import random
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PLAN = json.loads(sys.stdin.readline())
FIVE = PLAN["version"] == 5
QOS, BASE = PLAN["qos"], PLAN["base"]
RUN = random.randrange(1 << 32)
PATIENCE = 20


class Client:
    """One connection, and what happens to it in order."""

    def __init__(self, name, password=PLAN["password"], will=False):
        transport = {"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(PLAN["transport"], "tcp")
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"{name}-{RUN}",
            protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311, transport=transport, reconnect_on_failure=False)
        self.mqtt.username_pw_set(PLAN["user"], password)
        if PLAN["transport"] in ("tls", "wss"):
            self.mqtt.tls_set(ca_certs=PLAN["ca"])
        if transport == "websockets":
            self.mqtt.ws_set_options(path="/mqtt")
        if will:
            self.mqtt.will_set(BASE + "/will", "gone", qos=QOS)
        self.connacks, self.subacks, self.published, self.messages, self.ends = (queue.Queue() for _ in range(5))
        self.mqtt.on_connect = lambda c, u, flags, reason, properties: self.connacks.put(reason)
        self.mqtt.on_subscribe = lambda c, u, mid, reasons, properties: self.subacks.put(reasons[0])
        self.mqtt.on_publish = lambda c, u, mid, reason, properties: self.published.put(reason)
        self.mqtt.on_message = lambda c, u, message: self.messages.put(message)
        self.mqtt.on_disconnect = lambda c, u, flags, reason, properties: self.ends.put(reason)
        if transport == "unix":
            self.mqtt.connect(PLAN["path"])
        else:
            self.mqtt.connect(PLAN["host"], int(PLAN["port"]))
        self.mqtt.loop_start()
        self.connack = self.connacks.get(timeout=PATIENCE)

    def subscribe(self, topic):
        self.mqtt.subscribe(topic, QOS)
        return self.subacks.get(timeout=PATIENCE).value

    def publish(self, topic, payload, **more):
        self.mqtt.publish(topic, payload, **more)
        return self.published.get(timeout=PATIENCE)

    def message(self):
        m = self.messages.get(timeout=PATIENCE)
        p = m.properties if FIVE else None
        return {
            "topic": m.topic, "payload": m.payload.decode(), "qos": m.qos, "retain": bool(m.retain),
            "contentType": getattr(p, "ContentType", ""), "response": getattr(p, "ResponseTopic", ""),
            "correlation": getattr(p, "CorrelationData", b"").decode(),
            "user": ",".join(f"{k}={v}" for k, v in getattr(p, "UserProperty", [])),
            "expiry": getattr(p, "MessageExpiryInterval", 0) > 0,
        }


def properties():
    if not FIVE:
        return None
    p = Properties(PacketTypes.PUBLISH)
    p.ContentType, p.ResponseTopic, p.CorrelationData = "text/plain", "open/answers", b"id-7"
    p.UserProperty, p.MessageExpiryInterval = ("name", "one"), 3600
    return p


def refused():
    client = Client("denied")
    client.mqtt.publish("shut/x", "no", qos=1)
    if FIVE:
        return client.published.get(timeout=PATIENCE).value
    client.ends.get(timeout=PATIENCE)
    return -1 if client.published.empty() else 0


def main():
    report = {}
    reader = Client("reader")
    report["granted"] = reader.subscribe(BASE + "/#")
    report["denied"] = reader.subscribe("shut/#")
    writer = Client("writer", will=True)
    writer.publish(BASE + "/a", "one", qos=QOS, properties=properties())
    writer.publish(BASE + "/kept", "two", qos=QOS, retain=True)
    report["got"] = [reader.message(), reader.message()]
    late = Client("late")
    late.subscribe(BASE + "/kept")
    report["kept"] = late.message()
    # The socket ends without a DISCONNECT.
    writer.mqtt.loop_stop()
    writer.mqtt.socket().close()
    report["got"].append(reader.message())
    report["refused"] = refused()
    # paho-mqtt gives the return codes of 3.1.1 the names of MQTT 5.
    wrong = Client("wrong", password="wrong password").connack
    report["wrong"] = wrong.value if FIVE else {"Bad user name or password": 4}.get(str(wrong), wrong.value)
    print(json.dumps(report))


main()
