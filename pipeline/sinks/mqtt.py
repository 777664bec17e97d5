"""Publishes events at an MQTT broker with QoS 1, each as a JSON object that names its run.

Paho keeps messages of its own in a queue without a bound and sends them again by itself. So here it is given a few at a
time, by a connection that is thrown away with what it holds as soon as anything fails: what was not acknowledged is
still in the spool.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import ConfigError
from pipeline.rows import Labelling
from pipeline.sinks.delivery import Away, Refused, Severed, SpooledSink, events_in
from pipeline.threads import Stop

if TYPE_CHECKING:
    from paho.mqtt.client import Client
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = ["PLACEHOLDERS", "Connection", "MqttSink", "missing_paho", "wrong_topic"]

PLACEHOLDERS = ("source", "region", "filter", "label")
WINDOW = 20  # messages that are not acknowledged yet
TIMEOUT_S = 5.0
KEEPALIVE_S = 60
REST_S = 5.0  # between two looks at a connection over which nothing is sent
UNKNOWN_VERSION = (1, 132)  # answers to a request to connect, as 3.1.1 and 5 number them
NEVER = (144, 149, 153)  # answers to a message: its topic, its length, its payload
SPECIAL = re.compile(r"[/+#%$\x00-\x1f]")  # in a level of a topic


class Connection(Protocol):
    """A connection to a broker, used by one thread. What fails raises Away, its end Severed."""

    def publish(self, topic: str, payload: bytes) -> int:
        """Sends a message with QoS 1; returns its number."""

    def acknowledged(self, timeout_s: float) -> set[int]:
        """The numbers that the broker has taken since the last call; waits for something to come, so long at most.

        Raises:
            Refused: It answers that it does not take a message.
        """

    def close(self) -> None:
        """Ends the connection."""


class MqttSink(SpooledSink):
    """See the module.

    Args:
        host, port: Of the broker.
        topic: Of an event; `{source}`, `{region}`, `{filter}`, `{label}` stand for its own.
        tls: Whether the connection is encrypted, and the broker's certificate checked.
        user, password: None: without.
        connect: Makes a connection within so many seconds, or raises Away. None: one of paho's.
        name, spool_mb, thumbnails, folder, stop, live: See SpooledSink.
    """

    def __init__(
        self,
        host: str,
        *,
        folder: Path,
        port: int = 1883,
        topic: str = "vpipe/{source}/{label}",
        tls: bool = False,
        user: str | None = None,
        password: str | None = None,
        spool_mb: float = 100.0,
        thumbnails: bool = True,
        name: str = "mqtt",
        stop: Stop | None = None,
        live: Mapping[str, Labelling] | None = None,
        connect: Connect | None = None,
    ) -> None:
        super().__init__(
            name, folder=folder, spool_mb=spool_mb, batch=WINDOW, thumbnails=thumbnails, stop=stop, live=live
        )
        problem = wrong_topic(topic) or (missing_paho() if connect is None else None)
        if problem is not None:
            raise ConfigError([f"sink {name}: {problem}"])
        self._topic = topic
        self._connect = connect or _Paho(host, port, tls=tls, user=user, password=password).connect
        self._connection: Connection | None = None
        self._start = b'{"run":%s,' % json.dumps(self.run, ensure_ascii=False).encode()  # of each message

    def send(self, records: Sequence[bytes], timeout_s: float) -> int:
        until_s = time.monotonic() + min(TIMEOUT_S, timeout_s)
        taken: set[int] = set()
        numbers: list[int] = []
        try:
            if self._connection is None:
                self._connection = self._connected(min(TIMEOUT_S, timeout_s))
            for payload in events_in(records):
                topic = topic_of(self._topic, json.loads(payload))
                numbers.append(self._connection.publish(topic, self._start + payload[1:]))
            while not taken.issuperset(numbers):
                if (left_s := until_s - time.monotonic()) <= 0:
                    raise Away("no acknowledgement in time")
                taken |= self._connection.acknowledged(left_s)
        except (Away, Refused):
            self.hang_up()
            first = next((at for at, number in enumerate(numbers) if number not in taken), len(numbers))
            if not first:
                raise
            return first
        return len(records)

    def _connected(self, timeout_s: float) -> Connection:
        try:
            return self._connect(timeout_s)
        except Severed as exc:  # before any record was sent
            raise Away(str(exc)) from None

    def rest(self) -> float | None:
        """Answers what the broker asks over a connection over which nothing is sent."""
        if self._connection is None:
            return None
        try:
            self._connection.acknowledged(0.0)
        except Away:
            self.hang_up()  # the next event makes a new one
            return None
        return REST_S

    def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Connect(Protocol):
    """Makes a connection."""

    def __call__(self, timeout_s: float) -> Connection: ...


def topic_of(pattern: str, event: Mapping[str, object]) -> str:
    """The topic of an event. In a name, what separates levels or stands for some of them is percent-encoded."""
    names = {key: SPECIAL.sub(lambda found: f"%{ord(found[0]):02X}", str(event[key] or "")) for key in PLACEHOLDERS}
    return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], pattern)


def wrong_topic(topic: str) -> str | None:
    """What is wrong with a topic to publish at."""
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    # The region of a whole frame is empty.
    rest = re.sub(r"\{(" + "|".join(PLACEHOLDERS) + r")\}", lambda found: "" if found[1] == "region" else "x", topic)
    if not rest or re.search(r"[{}+#\x00-\x1f]", rest) or rest.startswith("$"):
        return f"must be a topic without + and #, with the placeholders {known}, got {topic!r}"
    return None


def packet_bytes(topic: str, payload: bytes) -> int:
    """How long a message is to a broker, in MQTT 5 (3.3, with a packet identifier and no properties)."""
    rest = 2 + len(topic.encode()) + 2 + 1 + len(payload)
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest


def missing_paho() -> str | None:
    """What to install, unless paho is there."""
    if importlib.util.find_spec("paho") is None:
        return "must have paho-mqtt, got none; pip install 'vpipe[mqtt]'"
    return None


class _Paho:
    """A connection of paho's, driven by the sink's thread alone: paho has none of its own and sends nothing unasked."""

    def __init__(self, host: str, port: int, *, tls: bool, user: str | None, password: str | None) -> None:
        self._host, self._port, self._tls, self._user, self._password = host, port, tls, user, password
        self._client: Client | None = None
        self._answer: ReasonCode | None = None
        self._taken: set[int] = set()
        self._problem: Away | Refused | None = None
        self._most_bytes: int | None = None  # of a packet, as the broker says
        self._version = 5  # in which a broker says what it does not take; else 4, which is MQTT 3.1.1

    def connect(self, timeout_s: float) -> Connection:
        """A new connection of the same kind, which the broker has accepted."""
        made = _Paho(self._host, self._port, tls=self._tls, user=self._user, password=self._password)
        made._version = self._version
        try:
            made._open(timeout_s)
        except BaseException:
            made.close()
            if self._version == 5 and made._answer is not None and made._answer.value in UNKNOWN_VERSION:
                self._version = 4
                return self.connect(timeout_s)
            raise
        return made

    def publish(self, topic: str, payload: bytes) -> int:
        client = self._opened()
        if self._most_bytes is not None and (n := packet_bytes(topic, payload)) > self._most_bytes:
            raise Refused(f"{n} bytes, and the broker takes {self._most_bytes} at most")
        try:
            info = client.publish(topic, payload, qos=1)
        except ValueError as exc:  # a topic or a payload that MQTT does not know
            raise Refused(str(exc)) from None
        except OSError as exc:
            raise Severed(str(exc)) from None
        if info.rc:
            raise Severed(f"a failure to publish ({info.rc})")
        return info.mid

    def acknowledged(self, timeout_s: float) -> set[int]:
        self._pump(timeout_s)
        taken, self._taken = self._taken, set()
        if self._problem is not None and not taken:
            raise self._problem
        return taken

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                client.disconnect()
                client.loop(0.0)
            except (OSError, ValueError):
                pass  # it is of no use any more
            client.on_connect = client.on_publish = None

    def _open(self, timeout_s: float) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        client = self._client = Client(
            CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(self._version), reconnect_on_failure=False
        )
        client.connect_timeout = timeout_s
        client.max_inflight_messages_set(WINDOW)
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        client.on_connect = lambda _client, _data, _flags, reason, properties: self._answered(reason, properties)
        client.on_publish = lambda _client, _data, mid, reason, _properties: self._published(mid, reason)
        until_s = time.monotonic() + timeout_s
        try:
            if self._tls:
                client.tls_set()
            client.connect(self._host, self._port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError) as exc:
            cause = exc.strerror if isinstance(exc, OSError) else None
            raise Away(cause or str(exc) or type(exc).__name__) from None
        while self._answer is None:
            if (left_s := until_s - time.monotonic()) <= 0:
                raise Away("no answer to a request to connect")
            self._pump(left_s)
        if self._answer.is_failure:
            raise Away(f"a refusal: {self._answer}")

    def _answered(self, reason: ReasonCode, properties: Properties | None) -> None:
        self._answer = reason
        self._most_bytes = getattr(properties, "MaximumPacketSize", None)

    def _published(self, mid: int, reason: ReasonCode) -> None:
        if not reason.is_failure:
            self._taken.add(mid)
        elif self._problem is None:
            text = f"the broker's answer: {reason}"
            self._problem = Refused(text) if reason.value in NEVER else Away(text)

    def _pump(self, timeout_s: float) -> None:
        """Reads and writes what there is; waits so long at most, for something to come."""
        failed = self._opened().loop(timeout_s)
        if self._answer is not None and self._answer.is_failure:
            raise Away(f"a refusal: {self._answer}")
        if failed:
            raise Severed(f"a connection that ended ({failed})")

    def _opened(self) -> Client:
        if self._client is None:
            raise Severed("a connection that ended")
        return self._client
