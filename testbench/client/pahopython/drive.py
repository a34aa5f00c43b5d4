"""Does with paho-mqtt what talk.Driver asks for: requests and answers are lines of JSON."""

import gc
import itertools
import json
import os
import queue
import socket
import sys
import threading
import traceback

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE = 20
CONNECTIONS = {}
ENDS = itertools.count(1)
SAYING = threading.Lock()


def say(**what):
    with SAYING:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def properties(kind, **values):
    """Properties of a packet; those that are 0 or empty are left out."""
    p = Properties(kind)
    for name, value in values.items():
        if value:
            setattr(p, name, value)
    return p


def of_message(kind, m, **more):
    """The properties of a message that is published, or of a will."""
    return properties(
        kind, PayloadFormatIndicator=int(m["Text"]), MessageExpiryInterval=m["Expiry"], ContentType=m["ContentType"], ResponseTopic=m["Response"],
        CorrelationData=m["Correlation"].encode(), UserProperty=[tuple(pair.split("=")) for pair in m["User"].split(",") if pair], **more)


def shown(m):
    p = m.properties
    return {
        "Topic": m.topic, "Payload": m.payload.decode(), "QoS": m.qos, "Retain": bool(m.retain),
        "Text": bool(getattr(p, "PayloadFormatIndicator", 0)), "Expiry": getattr(p, "MessageExpiryInterval", 0),
        "ContentType": getattr(p, "ContentType", ""), "Response": getattr(p, "ResponseTopic", ""),
        "Correlation": getattr(p, "CorrelationData", b"").decode(), "User": ",".join(f"{k}={v}" for k, v in getattr(p, "UserProperty", [])),
        "IDs": ",".join(map(str, getattr(p, "SubscriptionIdentifier", []))), "Alias": getattr(p, "TopicAlias", 0),
    }


# paho-mqtt gives the return codes of 3.1.1 the names of MQTT 5.
OLD_CODES = {"Client identifier not valid": 2, "Bad user name or password": 4, "Not authorized": 5}


class Connection:
    def __init__(self, name, c):
        self.name, self.c, self.five = name, c, c["Version"] == 5
        self.held, self.waiting, self.lock = False, [], threading.Lock()
        self.published = {}  # by packet identifier: what waits for it, or what it was answered with
        self.over = threading.Event()
        self.connacks, self.subacks = queue.Queue(), queue.Queue()
        transport = {"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(c["Transport"], "tcp")
        how = {} if self.five else {"clean_session": c["Clean"]}
        m = self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=c["ClientID"], protocol=mqtt.MQTTv5 if self.five else mqtt.MQTTv311, transport=transport,
            reconnect_on_failure=False, manual_ack=True, **how)
        if c["User"]:
            m.username_pw_set(c["User"], c["Password"])
        if c["Transport"] in ("tls", "wss"):
            m.tls_set(ca_certs=c["CA"], certfile=c["Cert"] or None, keyfile=c["Key"] or None)
        if transport == "websockets":
            m.ws_set_options(path="/mqtt")
        if will := c.get("Will"):
            p = of_message(PacketTypes.WILLMESSAGE, will, WillDelayInterval=will["Delay"]) if self.five else None
            m.will_set(will["Topic"], will["Payload"], will["QoS"], will["Retain"], p)
        m.on_connect = lambda c, u, flags, reason, p: self.connacks.put((flags, reason, p))
        m.on_connect_fail = lambda c, u: self.connacks.put(None)
        m.on_subscribe = lambda c, u, mid, reasons, p: self.subacks.put([r.value for r in reasons])
        m.on_publish = lambda c, u, mid, reason, p: self.answered(mid, {"Code": reason.value, "Reason": getattr(p, "ReasonString", "")})
        m.on_message = self.message
        m.on_disconnect = self.ended

    def connect(self):
        c, m = self.c, self.mqtt
        more = {}
        if self.five:
            more = {"clean_start": c["Clean"], "properties": properties(
                PacketTypes.CONNECT, SessionExpiryInterval=c["Expiry"], ReceiveMaximum=c["ReceiveMaximum"], MaximumPacketSize=c["MaximumPacketSize"],
                TopicAliasMaximum=c["TopicAliasMaximum"], RequestResponseInformation=int(c["RequestResponse"]))}
            if c["NoProblem"]:
                more["properties"].RequestProblemInformation = 0
        try:
            if c["Path"]:
                m.connect(c["Path"], keepalive=c["KeepAlive"], **more)
            else:
                m.connect(c["Host"], int(c["Port"]), keepalive=c["KeepAlive"], **more)
        except OSError as e:
            return {"Code": -1, "Reason": str(e)}
        m.loop_start()
        if (got := self.connacks.get(timeout=PATIENCE)) is None:
            return {"Code": -1}
        flags, reason, p = got
        answer = {
            "Code": reason.value if self.five else OLD_CODES.get(str(reason), reason.value), "Reason": getattr(p, "ReasonString", ""),
            "Present": flags.session_present, "Assigned": getattr(p, "AssignedClientIdentifier", ""), "Response": getattr(p, "ResponseInformation", ""),
            "KeepAlive": getattr(p, "ServerKeepAlive", 0), "Receive": getattr(p, "ReceiveMaximum", 0), "Packet": getattr(p, "MaximumPacketSize", 0),
            "Aliases": getattr(p, "TopicAliasMaximum", 0),
        }
        if answer["Code"] == 0 and c["Filters"]:
            answer["Codes"] = self.subscribe(c["Filters"])
        return answer

    def subscribe(self, filters):
        if not self.five:
            self.mqtt.subscribe([(f["Filter"], f["QoS"]) for f in filters])
        else:
            all_of_it = [(f["Filter"], SubscribeOptions(f["QoS"], f["NoLocal"], f["AsPublished"], f["Handling"])) for f in filters]
            self.mqtt.subscribe(all_of_it, properties=properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=self.c["SubscriptionID"]))
        return self.subacks.get(timeout=PATIENCE)

    def message(self, client, userdata, m):
        with self.lock:
            held = self.held
            if held:
                self.waiting.append(m)
        if not held:
            self.mqtt.ack(m.mid, m.qos)  # before the test knows of it and may have the client leave
        say(Conn=self.name, Message=shown(m))

    def hold(self, on):
        with self.lock:
            self.held = on
            waiting, self.waiting = self.waiting, [] if not on else self.waiting
        if not on:
            for m in waiting:
                self.mqtt.ack(m.mid, m.qos)

    def answered(self, mid, answer):
        """The answer may come before publish has returned the identifier."""
        with self.lock:
            waiting = self.published.setdefault(mid, queue.Queue())
        waiting.put(answer)

    def publish(self, m, payloads):
        mids = []
        for i, payload in enumerate(payloads):
            p = of_message(PacketTypes.PUBLISH, m, TopicAlias=m["Alias"]) if self.five else None
            info = self.mqtt.publish("" if m["Alias"] and i else m["Topic"], payload, m["QoS"], m["Retain"], p)
            mids.append(info.mid)
        answers = []
        for mid in mids:
            with self.lock:
                waiting = self.published.setdefault(mid, queue.Queue())
                if self.over.is_set():
                    waiting.put({"Code": -1})
            answers.append(waiting.get(timeout=PATIENCE))
            with self.lock:
                del self.published[mid]
        return answers

    def ended(self, client, userdata, flags, reason, p):
        said = flags.is_disconnect_packet_from_server
        say(Conn=self.name, Closed={"Code": reason.value if said else -1, "Reason": getattr(p, "ReasonString", "")})
        self.connacks.put(None)
        with self.lock:
            self.over.set()
            for waiting in self.published.values():
                waiting.put({"Code": -1})

    def end(self, how):
        if how == "kill":
            if s := self.mqtt.socket():  # its thread finds it at its end
                with socket.socket(fileno=os.dup(s.fileno())) as raw:
                    raw.shutdown(socket.SHUT_RDWR)
            return
        reason = ReasonCode(PacketTypes.DISCONNECT, identifier=4 if how == "will" else 0) if self.five else None
        self.mqtt.disconnect(reason)
        self.over.wait(PATIENCE)


def do(r):
    what, name = r["Do"], r["Conn"]
    if what == "connect":
        CONNECTIONS[name] = Connection(name, r["Connect"])
        return [CONNECTIONS[name].connect()]
    if what in ("leave", "will", "kill"):
        if connection := CONNECTIONS.pop(name, None):
            connection.end(what)
            del connection
            if next(ENDS) % 50 == 0:
                gc.collect()  # paho-mqtt waits with select, which knows 1024 descriptors
        return []
    connection = CONNECTIONS[name]
    if what == "publish":
        return connection.publish(r["Message"], r["Payloads"])
    connection.hold(what == "hold")
    return []


def answer(r):
    try:
        say(ID=r["ID"], Answers=do(r))
    except Exception:  # whatever it is, the test says it
        say(ID=r["ID"], Error=traceback.format_exc())


def main():
    socket.setdefaulttimeout(PATIENCE)
    for line in sys.stdin:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()


main()
