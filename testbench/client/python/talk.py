"""How a script talks with the test that runs it: lines of JSON, as drill.Program in Go says."""

import base64
import json
import logging
import os
import queue
import sys
import threading


def decoded(text):
    return None if text is None else base64.b64decode(text)


def encoded(raw):
    return None if raw is None else base64.b64encode(raw).decode()


def plan():
    return json.loads(sys.stdin.readline())


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")


def tell(record):
    """Tells a record as kafka-python and aiokafka have it."""
    say(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=encoded(record.key),
        value=encoded(record.value),
        headers=[{"key": k, "value": encoded(v)} for k, v in record.headers],
    )


class Leave:
    """The wish to leave the group, which is the end of standard input."""

    def __init__(self):
        self.lines = queue.Queue()
        self.wished = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin:
            self.lines.put(line)
        self.wished.set()
        self.lines.put("")

    def may_commit(self):
        """Returns when the test has all that was told."""
        say(commit=True)
        sys.stdout.flush()
        self.lines.get()


class Refusal(logging.Handler):
    """Ends the script when the library logs that it was refused: it tries on until its time is over, and does not raise why."""

    def emit(self, record):
        text = record.getMessage()
        print(text, file=sys.stderr, flush=True)
        if "authentication failed" in text:
            say(error=text)
            sys.stdout.flush()
            os._exit(0)


def run(produce, join):
    """Does what the plan says, and tells the error it met."""
    logging.getLogger().addHandler(Refusal(logging.WARNING))
    p = plan()
    try:
        if p["do"] == "produce":
            produce(p["door"], p["batches"])
        else:
            join(p["door"], p["member"])
    except Exception as e:  # whatever the library raises is for the test to judge
        say(error=f"{type(e).__name__}: {e}")
    sys.stdout.flush()
