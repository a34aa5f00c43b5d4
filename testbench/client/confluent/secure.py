"""Does one thing at a secure board and prints what came of it: the error's name where it failed.

Usage: secure.py WHAT TOPIC KEY=VALUE...
"""

import sys

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

# What the connection met. A certificate the broker refuses comes, with TLS 1.3, as the end of a connection that says so.
met = []


def on_error(e):
    text = e.str().lower()
    if e.name() == "_AUTHENTICATION":
        met.append(e.name())
    elif "alert certificate expired" in text or "alert unknown ca" in text:
        met.append("expired" if "expired" in text else "unknown ca")


def produce(topic, config):
    told = []
    p = Producer({**config, "message.timeout.ms": 10000})
    p.produce(topic, value=b"from librdkafka", on_delivery=lambda e, m: told.append(e.name() if e else "ok"))
    while not told and not met:
        p.poll(0.2)
    return (met + told)[0]


def consume(topic, config):
    c = Consumer({**config, "group.id": "g", "enable.auto.commit": False})
    c.assign([TopicPartition(topic, 0, 0)])
    for _ in range(100):
        m = c.poll(0.2)
        if m is not None:
            return m.error().name() if m.error() else m.value().decode()
        if met:
            return met[0]
    return "nothing"


def described(topic, config):
    error = AdminClient(config).list_topics(topic, timeout=10).topics[topic].error
    return error.name() if error else "ok"


def topics(_, config):
    return " ".join(sorted(AdminClient(config).list_topics(timeout=10).topics))


def main():
    what, topic = sys.argv[1:3]
    config = dict(pair.split("=", 1) for pair in sys.argv[3:])
    config["error_cb"] = on_error
    try:
        return {"produce": produce, "consume": consume, "described": described, "topics": topics}[what](topic, config)
    except KafkaException as e:
        return (met + [e.args[0].name()])[0]


print(main())
