import contextlib
import importlib.util
import json
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError
from pipeline.sinks import delivery, mqtt
from pipeline.sinks.lines import event_json
from pipeline.sinks.mqtt import MqttSink, topic_of, wrong_topic
from pipeline.sinks.spool import Spool
from pipeline.testing import ListBroker
from tests.spooled import first_arrivals, states, told, until, wanted


@pytest.fixture
def broker(monkeypatch):
    monkeypatch.setattr(delivery, "FIRST_S", 0.02)
    return ListBroker()


def sink(broker, folder, **options):
    return contextlib.closing(MqttSink("broker", folder=folder, connect=broker.connect, **options))


def arrived(broker):
    return states([json.loads(payload) for _, payload in broker.messages])


def test_events_are_published_in_order_a_few_at_a_time(broker, tmp_path):
    with sink(broker, tmp_path) as mqtt:
        for event in told(50):
            mqtt.event(event)
        until(lambda: mqtt.sent == 100)
        assert (mqtt.pending, mqtt.lost) == (0, 0)
    assert arrived(broker) == wanted(50)
    assert broker.most_open <= 20
    assert {topic for topic, _ in broker.messages} == {"vpipe/gate/person"}


def test_what_was_not_acknowledged_is_published_again_behind_a_new_connection(broker, tmp_path):
    with contextlib.closing(Spool(tmp_path / "spool" / "mqtt", 10**6)) as spool:  # so that they wait all at once
        for event in list(told(15))[:-1]:
            spool.append(delivery.EVENT + event_json(event))
    broker.acknowledges = 7
    with sink(broker, tmp_path) as mqtt:
        mqtt.event(list(told(15))[-1])
        until(lambda: mqtt.sent == 30)
    assert first_arrivals(arrived(broker)) == wanted(15)
    assert len(arrived(broker)) == 30 + 13  # of the first 20, seven were acknowledged


def test_events_wait_while_the_broker_is_away_and_reach_it_later(broker, tmp_path, caplog):
    with sink(broker, tmp_path) as mqtt:
        events = list(told(10))
        for event in events[:10]:
            mqtt.event(event)
        until(lambda: mqtt.sent == 10)
        broker.is_up = False
        for event in events[10:]:
            mqtt.event(event)
        until(lambda: "must be there" in caplog.text)
        assert mqtt.pending == 10
        broker.is_up = True
        until(lambda: mqtt.pending == 0)
    assert first_arrivals(arrived(broker)) == wanted(10)
    assert caplog.text.count("must be there, got") == 1


def test_a_message_that_makes_the_broker_leave_is_refused_alone_in_the_end(broker, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(delivery, "MOST_S", 0.05)
    broker.poison = b'"first_frame":50,'
    with sink(broker, tmp_path) as mqtt:
        for event in told(10):
            mqtt.event(event)
        until(lambda: mqtt.pending == 0)
        assert (mqtt.sent, mqtt.refused) == (18, 2)
    assert "a connection that ended, 10 times" in caplog.text
    poisoned = [payload for _, payload in broker.messages if broker.poison in payload]
    assert len(poisoned) >= 2 * delivery.POISON
    assert [at for at, _ in first_arrivals(arrived(broker))] == [10 * k for k in range(10) for _ in range(2)]


def test_a_broker_that_is_away_is_never_the_fault_of_a_message(broker, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "MOST_S", 0.02)
    tries = []

    def connect(timeout_s):
        tries.append(timeout_s)
        raise delivery.Severed("an end before the answer") if len(tries) % 2 else delivery.Away("Connection refused")

    with contextlib.closing(MqttSink("broker", folder=tmp_path, connect=connect)) as mqtt:
        mqtt.event(next(told(1)))
        until(lambda: len(tries) > 3 * delivery.POISON)
        assert (mqtt.pending, mqtt.refused) == (1, 0)


def test_a_message_names_its_run(broker, tmp_path):
    with sink(broker, tmp_path / 'west "1"') as mqtt:
        mqtt.event(next(told(1)))
        until(lambda: mqtt.sent == 1)
    (event,) = [json.loads(payload) for _, payload in broker.messages]
    assert (event["run"], event["event"], event["first_frame"]) == ('west "1"', "began", 0)


def test_what_could_not_be_sent_waits_for_the_next_run(broker, tmp_path):
    broker.is_up = False
    with sink(broker, tmp_path) as mqtt:
        for event in told(5):
            mqtt.event(event)
    broker.is_up = True
    with sink(broker, tmp_path) as mqtt:
        mqtt.event(next(told(1, "yard")))
        until(lambda: mqtt.sent == 11)
    assert arrived(broker) == [*wanted(5), (0, "began")]


@pytest.mark.parametrize("topic", ["", "{region}", "a/#", "+", "$SYS/x", "{sauce}", "a\nb"], ids=repr)
def test_a_topic_that_no_broker_takes_is_refused(topic):
    assert "must be a topic without + and #" in wrong_topic(topic)


def test_names_in_a_topic_make_no_levels_of_their_own():
    event = {"source": "a/b+c#d%", "region": None, "filter": "f", "label": "größe"}
    assert topic_of("x/{source}/{region}/{filter}/{label}", event) == "x/a%2Fb%2Bc%23d%25//f/größe"


@pytest.mark.parametrize("topic", ["", "a/#", "a/+/b", "{sauce}", "{source", "$SYS/x", "a{}"])
def test_a_topic_that_cannot_be_published_at_is_refused(topic, tmp_path, broker):
    with pytest.raises(ConfigError, match=r"sink mqtt: must be a topic without \+ and #, with the placeholders"):
        sink(broker, tmp_path, topic=topic)


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"must have paho-mqtt, got none; pip install 'vpipe\[mqtt\]'"):
        MqttSink("broker", folder=tmp_path)


def test_a_broker_that_knows_an_older_version_alone_is_talked_to_in_that(monkeypatch):
    tried = []

    def opened(self, timeout_s):
        tried.append(self._version)
        if self._version == 5:
            self._answer = SimpleNamespace(value=132, is_failure=True)
            raise delivery.Away("a refusal: Unsupported protocol version")

    monkeypatch.setattr(mqtt._Paho, "_open", opened)
    paho = mqtt._Paho("broker", 1883, tls=False, user=None, password=None)
    for _ in range(2):
        assert paho.connect(1.0)
    assert tried == [5, 4, 4]
