"""Drives confluent-kafka as the plan on standard input says."""

import os
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

import talk


def refused(e):
    """Ends the script when the library was refused: it would try on until its time is over."""
    if e.code() == KafkaError._AUTHENTICATION:
        talk.say(error=e.str())
        sys.stdout.flush()
        os._exit(0)


def entry(door):
    config = {"bootstrap.servers": door["address"], "error_cb": refused, "log_level": 0, "reconnect.backoff.max.ms": 300}
    if "user" in door:
        config.update(
            {
                "security.protocol": "SASL_SSL" if "ca" in door else "SASL_PLAINTEXT",
                "sasl.mechanism": door["mechanism"],
                "sasl.username": door["user"],
                "sasl.password": door["password"],
            }
        )
    if "ca" in door:
        config["ssl.ca.location"] = door["ca"]
    return config


def produce(door, batches):
    for batch in batches:
        failed = []
        producer = Producer(
            {**entry(door), "compression.type": batch["codec"], "enable.idempotence": True, "message.timeout.ms": 20000}
        )
        for r in batch["records"]:
            producer.produce(
                r["topic"],
                partition=r["partition"],
                timestamp=r["timestamp"],
                key=talk.decoded(r["key"]),
                value=talk.decoded(r["value"]),
                headers=[(h["key"], talk.decoded(h["value"])) for h in r["headers"] or []],
                on_delivery=lambda e, _: failed.append(e) if e else None,
            )
        if left := producer.flush(60):
            raise TimeoutError(f"{left} records are not acknowledged")
        if failed:
            raise KafkaException(failed[0])


def join(door, member):
    leave = talk.Leave()
    config = {
        **entry(door),
        "group.id": member["group"],
        "client.id": member["name"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "heartbeat.interval.ms": 200,
        "fetch.wait.max.ms": 200,
    }
    if member["assignor"]:
        config["partition.assignment.strategy"] = member["assignor"]
    consumer = Consumer(config)
    told = 0

    def commit():
        nonlocal told
        if told:
            leave.may_commit()
            try:
                consumer.commit(asynchronous=False)
            except KafkaException as e:
                # A cooperative member reads on while it joins the next generation, and may commit by the last one too late.
                # What it then keeps it commits by the next.
                if e.args[0].code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS):
                    return
                raise
            told = 0

    # Gives partitions away only when what was read of them is committed.
    consumer.subscribe(member["topics"], on_revoke=lambda *_: commit())
    while not leave.wished.is_set():
        m = consumer.poll(0 if told else 0.2)
        if m is not None and m.error() is None:
            talk.say(
                topic=m.topic(),
                partition=m.partition(),
                offset=m.offset(),
                timestamp=m.timestamp()[1],
                key=talk.encoded(m.key()),
                value=talk.encoded(m.value()),
                headers=[{"key": k, "value": talk.encoded(v)} for k, v in m.headers() or []],
            )
            told += 1
        elif m is not None and not m.error().retriable():
            raise KafkaException(m.error())
        if m is None or told >= 100:
            commit()
    commit()
    consumer.close()


talk.run(produce, join)
