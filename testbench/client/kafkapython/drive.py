"""Drives kafka-python as the plan on standard input says."""

from kafka import KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor

import talk

ASSIGNORS = {a.name: a for a in (RangePartitionAssignor, CooperativeStickyAssignor)}


def entry(door):
    # A refusal and the end of the connection often come to it at once, and it sees only the end: let it try again soon.
    config = {"bootstrap_servers": door["address"], "security_protocol": "PLAINTEXT", "reconnect_backoff_max_ms": 100}
    if "user" in door:
        config.update(
            security_protocol="SASL_SSL" if "ca" in door else "SASL_PLAINTEXT",
            sasl_mechanism=door["mechanism"],
            sasl_plain_username=door["user"],
            sasl_plain_password=door["password"],
            ssl_cafile=door.get("ca"),
        )
    return config


def produce(door, batches):
    for batch in batches:
        codec = None if batch["codec"] == "none" else batch["codec"]
        producer = KafkaProducer(**entry(door), compression_type=codec, max_block_ms=20000)
        try:
            futures = [
                producer.send(
                    r["topic"],
                    partition=r["partition"],
                    timestamp_ms=r["timestamp"],
                    key=talk.decoded(r["key"]),
                    value=talk.decoded(r["value"]),
                    headers=[(h["key"], talk.decoded(h["value"])) for h in r["headers"] or []],
                )
                for r in batch["records"]
            ]
            for f in futures:
                f.get(timeout=60)
        finally:
            producer.close(timeout=5)


def join(door, member):
    leave = talk.Leave()
    more = {}
    if member["assignor"]:
        more["partition_assignment_strategy"] = [ASSIGNORS[member["assignor"]]]
    consumer = KafkaConsumer(
        *member["topics"],
        **entry(door),
        **more,
        group_id=member["group"],
        client_id=member["name"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        heartbeat_interval_ms=200,
        fetch_max_wait_ms=200,
    )
    while not leave.wished.is_set():
        # A join that outlasts a poll is sometimes never finished by kafka-python 3.0.12, so a poll is long.
        records = [r for of_one in consumer.poll(timeout_ms=1000, max_records=100).values() for r in of_one]
        if records:
            for r in records:
                talk.tell(r)
            leave.may_commit()
            consumer.commit()
    consumer.close()


talk.run(produce, join)
