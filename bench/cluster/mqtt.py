"""Clients that know what the steps need: MQTT 5, QoS 1, and what became of each message."""
import random, socket, struct, threading, time


def text(word):
    word = word.encode()
    return struct.pack(">H", len(word)) + word


def length(size):
    out = b""
    while True:
        out += bytes([size % 128 | (0x80 if size >= 128 else 0)])
        size //= 128
        if not size:
            return out


def packet(first, body):
    return bytes([first]) + length(len(body)) + body


def connect_packet(name, clean=True, expiry=0, will=None):
    """`will`: topic and payload."""
    flags = (2 if clean else 0) | (0x0C if will else 0)
    properties = b"\x11" + struct.pack(">I", expiry) if expiry else b""
    body = text("MQTT") + bytes([5, flags]) + struct.pack(">H", 0)
    body += length(len(properties)) + properties + text(name)
    if will:
        body += b"\0" + text(will[0]) + text(will[1])
    return packet(0x10, body)


def subscribe_packet(filters, qos=1, number=1):
    body = struct.pack(">H", number) + b"\0"
    return packet(0x82, body + b"".join(text(one) + bytes([qos]) for one in filters))


def publish_packet(topic, payload, number=0, retain=False):
    """QoS 1, or 0 without a number."""
    head = text(topic) + (struct.pack(">H", number) if number else b"") + b"\0"
    return packet(0x30 | (2 if number else 0) | int(retain), head + payload)


class Closed(OSError):
    pass


class Client:
    """One connection, until it fails."""

    def __init__(self, node, name, clean=True, expiry=0, will=None, patience=20):
        self.stream = socket.create_connection((node.host, node.port), patience)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes, self.messages = b"", []
        self.began = time.monotonic()
        self.stream.sendall(connect_packet(name, clean, expiry, will))
        kind, body = self.read()
        self.took = time.monotonic() - self.began
        if kind & 0xF0 != 0x20 or body[1]:
            raise Closed(f"not let in: {body[1]:#x}" if kind == 0x20 else "not let in")
        self.present = body[0] == 1

    def read(self):
        while True:
            found = self.parse()
            if found:
                return found
            more = self.stream.recv(65536)
            if not more:
                raise Closed("closed")
            self.bytes += more

    def parse(self):
        size = shift = 0
        for at in range(1, min(5, len(self.bytes))):
            size |= (self.bytes[at] & 127) << shift
            shift += 7
            if self.bytes[at] < 128:
                end = at + 1 + size
                if len(self.bytes) < end:
                    return None
                found = self.bytes[0], self.bytes[at + 1:end]
                self.bytes = self.bytes[end:]
                return found
        return None

    def wait_for(self, wanted):
        """The next packet of that type; messages that come meanwhile are kept."""
        while True:
            kind, body = self.read()
            if kind & 0xF0 == wanted:
                return body
            if kind & 0xF0 == 0x30:
                self.messages.append(self.taken(kind, body))
            elif kind & 0xF0 == 0xE0:
                raise Closed(f"told {body[0] if body else 0:#x}")

    def subscribe(self, *filters, qos=1):
        self.stream.sendall(subscribe_packet(filters, qos))
        self.wait_for(0x90)

    def publish(self, topic, payload, number):
        self.stream.sendall(publish_packet(topic, payload, number))
        self.wait_for(0x40)

    def taken(self, kind, body, acknowledge=True):
        """Topic and payload of a message, which is acknowledged."""
        size = struct.unpack(">H", body[:2])[0]
        topic, at = body[2:2 + size].decode(), 2 + size
        if kind & 6:
            if acknowledge:
                self.stream.sendall(packet(0x40, body[at:at + 2]))
            at += 2
        return topic, body[at + 1 + body[at]:]

    def message(self):
        if self.messages:
            return self.messages.pop(0)
        while True:
            kind, body = self.read()
            if kind & 0xF0 == 0x30:
                return self.taken(kind, body)
            if kind & 0xF0 == 0xE0:
                raise Closed(f"told {body[0] if body else 0:#x}")

    def message_kept(self):
        """The next message, which is not acknowledged."""
        kind, body = self.read()
        if kind & 0xF0 != 0x30:
            raise Closed(f"packet {kind:#x}")
        return self.taken(kind, body, acknowledge=False)

    def close(self):
        self.stream.close()


class Publishers:
    """Clients that publish numbers one after the other, QoS 1, each to a topic of its own. One whose
    connection ends goes to the next node, and publishes again what was not acknowledged."""

    def __init__(self, nodes, prefix, count=10, rate=50):
        self.nodes, self.prefix, self.rate = nodes, prefix, rate
        # When each message was acknowledged, by publisher.
        self.said = [[] for _ in range(count)]
        self.again, self.end, self.waited = 0, threading.Event(), 0.0
        self.threads = [threading.Thread(target=self.go, args=(n,), daemon=True)
                        for n in range(count)]
        for thread in self.threads:
            thread.start()

    def go(self, number):
        client, place = None, number
        due = time.monotonic() + random.random() / self.rate
        said, topic = self.said[number], f"{self.prefix}/{number}"
        while not self.end.is_set():
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            time.sleep(max(0, due - time.monotonic()))
            began = time.monotonic()
            try:
                if client is None:
                    client = Client(self.nodes[place % len(self.nodes)], topic, patience=30)
                client.publish(topic, str(len(said)).encode().rjust(130), len(said) % 65535 + 1)
            except OSError:
                place, client = place + 1, None
                self.again += 1
                time.sleep(0.05)
                continue
            said.append(time.monotonic())
            self.waited = max(self.waited, said[-1] - began)

    def stop(self):
        self.end.set()
        for thread in self.threads:
            thread.join()

    def count(self):
        return sum(map(len, self.said))


class Reader(threading.Thread):
    """A client with a session that lasts; when its connection ends it goes on at the next node."""

    def __init__(self, nodes, name, topic, place=0):
        super().__init__(daemon=True)
        self.nodes, self.name_, self.topic, self.place = nodes, name, topic, place
        self.got, self.moves, self.fresh, self.over = {}, 0, 0, False
        self.client = Client(nodes[place], name, clean=True, expiry=600)
        self.client.subscribe(topic)
        self.start()

    def run(self):
        while not self.over:
            try:
                topic, payload = self.client.message()
                self.got.setdefault(topic, []).append(int(payload))
            except TimeoutError:
                continue
            except OSError:
                if not self.over:
                    self.move()

    def move(self):
        """Comes back at the next node that lets it in."""
        while not self.over:
            self.place = (self.place + 1) % len(self.nodes)
            try:
                self.client = Client(self.nodes[self.place], self.name_, False, 600, patience=5)
            except OSError:
                time.sleep(0.05)
                continue
            self.moves += 1
            if not self.client.present:
                self.fresh += 1
                self.client.subscribe(self.topic)
            return

    def stop(self):
        self.over = True
        self.client.close()


class Verdict:
    """What of the publishers' messages came to a reader."""

    def __init__(self, publishers, reader):
        self.published = publishers.count()
        self.lost = self.doubled = self.reordered = 0
        # When those that are lost were acknowledged.
        self.times = []
        for number, said in enumerate(publishers.said):
            got = list(reader.got.get(f"{publishers.prefix}/{number}", []))
            there = set(got)
            gone = [at for at in range(len(said)) if at not in there]
            self.lost += len(gone)
            self.times += [said[at] for at in gone]
            firsts = list(dict.fromkeys(got))
            self.doubled += len(got) - len(firsts)
            self.reordered += sum(later < sooner for sooner, later in zip(firsts, firsts[1:]))


def settle(publishers, readers, seconds=30):
    """Waits until nothing that was published is missing, or nothing more comes for 4 s."""
    until, since, before = time.monotonic() + seconds, time.monotonic(), -1
    while time.monotonic() < until and time.monotonic() - since < 4:
        if all(Verdict(publishers, reader).lost == 0 for reader in readers):
            return
        now = sum(len(got) for reader in readers for got in list(reader.got.values()))
        if now != before:
            since, before = time.monotonic(), now
        time.sleep(0.2)
