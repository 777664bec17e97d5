import contextlib
import json
import subprocess
from dataclasses import replace

import pytest

from pipeline.sinks import delivery
from pipeline.sinks.lines import event_json
from pipeline.sinks.mqtt import MqttSink, packet_bytes
from tests.spooled import first_arrivals, free_port, listens, states, told, until, wanted


class Broker:
    """A mosquitto that keeps what subscribers miss, and can be stopped and started."""

    def __init__(self, program, folder):
        self.program, self.folder, self.port, self.process = program, folder, free_port(), None

    def start(self, *lines):
        config = self.folder / "mosquitto.conf"
        lines = lines or ("allow_anonymous true",)
        config.write_text("\n".join([*self.always(), *lines, ""]))
        self.process = subprocess.Popen(
            [self.program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: listens(self.port))

    def always(self):
        # Started by root it would become another user, who may not read these folders.
        where = ("user root", f"listener {self.port} 127.0.0.1")
        return (*where, "persistence true", f"persistence_location {self.folder}/")

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


@pytest.fixture
def broker(mosquitto, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_S", 0.05)
    made = Broker(mosquitto, tmp_path)
    yield made
    made.stop()


@contextlib.contextmanager
def subscribed(broker):
    """A subscriber for whom the broker keeps what comes while it is not there; yields the list of what it gets."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    got, ready = [], []
    client = Client(CallbackAPIVersion.VERSION2, client_id="watcher", clean_session=False)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda *_: client.subscribe("vpipe/#", qos=1)
    client.on_subscribe = lambda *_: ready.append(1)
    client.on_message = lambda _client, _data, message: got.append((message.topic, json.loads(message.payload)))
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        until(lambda: ready)
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


def test_events_reach_subscribers_in_order(broker, tmp_path):
    broker.start()
    with (
        subscribed(broker) as got,
        contextlib.closing(MqttSink("127.0.0.1", port=broker.port, folder=tmp_path)) as sink,
    ):
        for event in told(50):
            sink.event(event)
        until(lambda: len(got) == 100)
        until(lambda: sink.pending == 0)
    assert states([event for _, event in got]) == wanted(50)
    assert {topic for topic, _ in got} == {"vpipe/gate/person"}


def test_a_broker_that_is_stopped_for_a_while_gets_all_in_order(broker, tmp_path):
    broker.start()
    events = list(told(20))
    with (
        subscribed(broker) as got,
        contextlib.closing(MqttSink("127.0.0.1", port=broker.port, folder=tmp_path)) as sink,
    ):
        for event in events[:10]:
            sink.event(event)
        until(lambda: sink.sent == 10 and len(got) == 10)
        broker.stop()
        for event in events[10:]:
            sink.event(event)
        assert sink.pending == 30
        broker.start()
        until(lambda: sink.pending == 0)
        until(lambda: len(first_arrivals(states([event for _, event in got]))) == 40)
    assert first_arrivals(states([event for _, event in got])) == wanted(20)


def test_a_refused_name_is_told_and_nothing_is_lost(broker, tmp_path, caplog):
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    broker.start("allow_anonymous false", f"password_file {passwords}")
    with contextlib.closing(
        MqttSink("127.0.0.1", port=broker.port, folder=tmp_path, user="me", password="hunter2")
    ) as sink:
        sink.event(next(told(1)))
        until(lambda: "must be there, got a refusal" in caplog.text)
        assert sink.pending == 1
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("limit", ["message_size_limit 5000", "max_packet_size 5000"])
def test_a_message_that_is_too_long_for_the_broker_is_refused_and_the_others_arrive(
    broker, tmp_path, monkeypatch, caplog, limit
):
    monkeypatch.setattr(delivery, "MOST_S", 0.1)
    broker.start("allow_anonymous true", limit)
    with (
        subscribed(broker) as got,
        contextlib.closing(MqttSink("127.0.0.1", port=broker.port, folder=tmp_path)) as sink,
    ):
        for event in told(10):
            sink.event(replace(event, thumbnail=b"x" * 9000) if event.first_frame == 50 else event)
        until(lambda: sink.pending == 0)
        assert (sink.sent, sink.refused) == (18, 2)
        until(lambda: len({(told["first_frame"], told["event"]) for _, told in got}) == 18)
    assert first_arrivals(states([event for _, event in got])) == [state for state in wanted(10) if state[0] != 50]
    assert "gate//person/person/50/5500" in caplog.text


@pytest.mark.parametrize("over", [0, 1])
def test_what_the_broker_says_it_does_not_take_is_not_sent(broker, tmp_path, caplog, over):
    events = list(told(10))
    start = b'{"run":"%s",' % tmp_path.name.encode()
    sizes = {packet_bytes("vpipe/gate/person", start + event_json(one, thumbnail=True)[1:]) for one in events}
    broker.start("allow_anonymous true", f"max_packet_size {max(sizes) - over}")
    with contextlib.closing(MqttSink("127.0.0.1", port=broker.port, folder=tmp_path)) as sink:
        for event in events:
            sink.event(event)
        until(lambda: sink.pending == 0)
        assert (sink.sent + sink.refused, sink.refused > 0) == (20, bool(over))
    assert "must be there" not in caplog.text
    assert ("the broker takes" in caplog.text) == bool(over)
