"""What Paho's Python client sees of a broker: paho_clients.py HOST PORT [websockets]

Prints one line per check and ends with 1 when one failed.
"""

import queue
import sys
import threading
import time
import traceback
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT = sys.argv[1], int(sys.argv[2])
TRANSPORT = sys.argv[3] if len(sys.argv) > 3 else "tcp"
WAIT = 10
V311, V5 = mqtt.MQTTv311, mqtt.MQTTv5


def unique(name):
    return f"{name}-{uuid.uuid4().hex[:12]}"


class Peer:
    """A client whose messages wait in a queue."""

    def __init__(self, version, name=None, clean=True, expiry=0, will=None):
        extra = {"clean_session": clean} if version != V5 else {}
        self.name = name or unique("paho")
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            self.name,
            protocol=version,
            transport=TRANSPORT,
            **extra,
        )
        self.messages = queue.Queue()
        self.connected, self.gone = threading.Event(), threading.Event()
        self.present, self.reason, self.granted = None, None, queue.Queue()
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_subscribe = lambda client, data, mid, codes, _: self.granted.put(codes)
        self.client.on_unsubscribe = lambda client, data, mid, codes, _: self.granted.put(codes)
        if will:
            self.client.will_set(*will)
        extra = {}
        if version == V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry
            extra = {"clean_start": clean, "properties": properties}
        self.client.connect(HOST, PORT, keepalive=30, **extra)
        self.client.loop_start()
        assert self.connected.wait(WAIT), "no CONNACK"
        assert self.reason == 0, self.reason

    def on_connect(self, client, data, flags, reason, properties):
        self.present, self.reason = flags.session_present, reason
        self.connected.set()

    def on_disconnect(self, client, data, flags, reason, properties):
        # Paho may call this a second time when the connection closes after DISCONNECT.
        if not self.gone.is_set():
            self.reason = reason
        self.gone.set()

    def subscribe(self, topic, qos=0, options=None, properties=None):
        self.client.subscribe(topic, qos=qos, options=options, properties=properties)
        return [code.value for code in self.granted.get(timeout=WAIT)]

    def unsubscribe(self, topic):
        self.client.unsubscribe(topic)
        self.granted.get(timeout=WAIT)

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(WAIT)
        assert info.is_published(), "not acknowledged"

    def message(self):
        return self.messages.get(timeout=WAIT)

    def nothing(self, seconds=0.3):
        try:
            raise AssertionError(f"unexpected: {self.messages.get(timeout=seconds).payload}")
        except queue.Empty:
            pass

    def leave(self):
        self.client.disconnect()
        assert self.gone.wait(WAIT), "no end"
        self.client.loop_stop()

    def vanish(self):
        self.client.socket().close()
        self.client.loop_stop()


def exchange(version):
    topic = unique("exchange")
    sub, pub = Peer(version), Peer(version)
    assert sub.subscribe(topic, 2) == [2]
    for qos in range(3):
        for n in range(100):
            pub.client.publish(topic, f"{qos} {n}", qos)
        for n in range(100):
            message = sub.message()
            assert message.payload == f"{qos} {n}".encode(), (message.payload, qos, n)
            assert message.qos == qos
    sub.unsubscribe(topic)
    pub.publish(topic, "late", 1)
    sub.nothing()
    sub.leave()
    pub.leave()


def large(version):
    topic, payload = unique("large"), bytes(range(256)) * 2048
    sub = Peer(version)
    sub.subscribe(topic, 1)
    sub.publish(topic, payload, 1)
    assert sub.message().payload == payload
    sub.leave()


def retained(version):
    topic = unique("retained")
    pub = Peer(version)
    pub.publish(topic, "kept", 1, retain=True)
    sub = Peer(version)
    sub.subscribe(topic + "/#", 1)
    message = sub.message()
    assert message.retain and message.payload == b"kept"
    pub.publish(topic, "", 1, retain=True)
    assert not sub.message().retain
    late = Peer(version)
    late.subscribe(topic, 1)
    late.nothing()
    for peer in (pub, sub, late):
        peer.leave()


def waiting(version):
    topic, name = unique("waiting"), unique("paho")
    away = Peer(version, name, clean=False, expiry=60)
    assert not away.present
    away.subscribe(topic, 2)
    away.leave()
    pub = Peer(version)
    for n in range(20):
        pub.publish(topic, str(n), 1 + n % 2)
    back = Peer(version, name, clean=False, expiry=60)
    assert back.present
    # Paho hands out a message of QoS 2 when its PUBREL comes: order holds for each QoS.
    got = [back.message() for _ in range(20)]
    for qos in (1, 2):
        numbers = [int(message.payload) for message in got if message.qos == qos]
        assert numbers == [n for n in range(20) if 1 + n % 2 == qos], numbers
    back.leave()
    pub.leave()
    Peer(version, name).leave()


def will(version):
    topic = unique("will")
    sub = Peer(version)
    sub.subscribe(topic, 1)
    Peer(version, will=(topic, "not sent", 1)).leave()
    Peer(version, will=(topic, "gone", 1)).vanish()
    assert sub.message().payload == b"gone"
    sub.nothing()
    sub.leave()


def takeover(version):
    name = unique("paho")
    old = Peer(version, name)
    old.client.reconnect_delay_set(60, 60)
    new = Peer(version, name)
    assert old.gone.wait(WAIT), "the old connection lives on"
    if version == V5:
        assert old.reason.value == 0x8E, old.reason
    old.client.loop_stop()
    new.leave()


def properties(_):
    topic = unique("properties")
    sub, pub = Peer(V5), Peer(V5)
    numbered = Properties(PacketTypes.SUBSCRIBE)
    numbered.SubscriptionIdentifier = 7
    sub.subscribe(topic, options=SubscribeOptions(qos=1), properties=numbered)
    sent = Properties(PacketTypes.PUBLISH)
    sent.PayloadFormatIndicator = 1
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers"
    sent.CorrelationData = b"\x00\x01"
    sent.MessageExpiryInterval = 100
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "1")]
    sent.TopicAlias = 3
    pub.publish(topic, "x", 1, properties=sent)
    got = sub.message().properties
    for name in ("PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData"):
        assert getattr(got, name) == getattr(sent, name), name
    assert got.UserProperty == sent.UserProperty
    assert got.MessageExpiryInterval in (99, 100)
    assert got.SubscriptionIdentifier == [7]
    assert not hasattr(got, "TopicAlias")
    alias = Properties(PacketTypes.PUBLISH)
    alias.TopicAlias = 3
    pub.publish("", "by alias", 1, properties=alias)
    assert sub.message().payload == b"by alias"
    sub.leave()
    pub.leave()


def shared(_):
    topic = unique("shared")
    members = [Peer(V5) for _ in range(3)]
    for member in members:
        member.subscribe(f"$share/{topic}/{topic}", 1)
    pub = Peer(V5)
    for n in range(30):
        pub.publish(topic, str(n), 1)
    end = time.monotonic() + WAIT
    while sum(member.messages.qsize() for member in members) < 30 and time.monotonic() < end:
        time.sleep(0.02)
    assert [member.messages.qsize() for member in members] == [10, 10, 10]
    for peer in members + [pub]:
        peer.leave()


def no_local(_):
    topic = unique("no-local")
    one, two = Peer(V5), Peer(V5)
    one.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
    one.publish(topic, "own", 1)
    two.publish(topic, "other's", 1)
    assert one.message().payload == b"other's"
    one.nothing()
    one.leave()
    two.leave()


def main():
    checks = [
        (check, version)
        for version in (V311, V5)
        for check in (exchange, large, retained, waiting, will, takeover)
    ] + [(check, V5) for check in (properties, shared, no_local)]
    failed = 0
    for check, version in checks:
        name = f"{check.__name__} {'5.0' if version == V5 else '3.1.1'}"
        try:
            check(version)
            print("ok", name, flush=True)
        except Exception:
            failed += 1
            print("FAILED", name, flush=True)
            traceback.print_exc()
    print(f"{len(checks) - failed} ok, {failed} failed")
    sys.exit(1 if failed else 0)


main()
