"""Drives aiokafka as the plan on standard input says."""

import asyncio
import ssl

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

import talk

ASSIGNORS = {a.name: a for a in (RoundRobinPartitionAssignor, StickyPartitionAssignor)}


def entry(door):
    config = {"bootstrap_servers": door["address"]}
    if "user" in door:
        config.update(
            security_protocol="SASL_SSL" if "ca" in door else "SASL_PLAINTEXT",
            sasl_mechanism=door["mechanism"],
            sasl_plain_username=door["user"],
            sasl_plain_password=door["password"],
            ssl_context=ssl.create_default_context(cafile=door["ca"]) if "ca" in door else None,
        )
    return config


async def produce(door, batches):
    for batch in batches:
        codec = None if batch["codec"] == "none" else batch["codec"]
        producer = AIOKafkaProducer(**entry(door), compression_type=codec, acks="all", request_timeout_ms=20000)
        await producer.start()
        try:
            futures = [
                await producer.send(
                    r["topic"],
                    partition=r["partition"],
                    timestamp_ms=r["timestamp"],
                    key=talk.decoded(r["key"]),
                    value=talk.decoded(r["value"]),
                    headers=[(h["key"], talk.decoded(h["value"])) for h in r["headers"] or []],
                )
                for r in batch["records"]
            ]
            await asyncio.gather(*futures)
        finally:
            await producer.stop()


class Committed(ConsumerRebalanceListener):
    """Gives partitions away only when what was read of them is committed."""

    def __init__(self):
        self.lock = asyncio.Lock()

    async def on_partitions_revoked(self, revoked):
        async with self.lock:
            pass

    async def on_partitions_assigned(self, assigned):
        pass


async def join(door, member):
    leave = talk.Leave()
    more = {}
    if member["assignor"]:
        more["partition_assignment_strategy"] = [ASSIGNORS[member["assignor"]]]
    consumer = AIOKafkaConsumer(
        **entry(door),
        **more,
        group_id=member["group"],
        client_id=member["name"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        heartbeat_interval_ms=200,
        fetch_max_wait_ms=200,
    )
    listener = Committed()
    consumer.subscribe(member["topics"], listener=listener)
    await consumer.start()
    try:
        while not leave.wished.is_set():
            # Not under the lock: while partitions move, this waits for the listener.
            read = await consumer.getmany(timeout_ms=100, max_records=100)
            if not any(read.values()):
                continue
            async with listener.lock:
                for of_one in read.values():
                    for r in of_one:
                        talk.tell(r)
                await asyncio.to_thread(leave.may_commit)
                await consumer.commit()
    finally:
        await consumer.stop()


talk.run(lambda *a: asyncio.run(produce(*a)), lambda *a: asyncio.run(join(*a)))
