"""What lets a suite that wants its messages back speak to a broker of MQTT: frames of WebSocket stay as they
are, cuts, masks and control frames among them, but a message's bytes are replaced by as many bytes of
PUBLISH to a topic that the connection is subscribed to, and what comes back by the message."""

import itertools
import os
import string
import struct

CONNECT = b"\x10\x0c\0\4MQTT\4\2\0\0\0\0"
TOPICS = itertools.cycle(string.ascii_letters.encode())
LETTERS = (string.ascii_letters * 400000).encode()
TEXT, BINARY, CLOSE = 1, 2, 8


def mask(payload, key):
    if not payload:
        return payload
    repeated = key * (len(payload) // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[: len(payload)], "big")).to_bytes(len(payload), "big")


def remaining_length(count):
    out = bytearray()
    while True:
        count, low = divmod(count, 128)
        out.append(low | (128 if count else 0))
        if not count:
            return bytes(out)


def publish(topic, length):
    """One or two PUBLISH packets of so many bytes in all, none of fewer than five."""
    for digits in (1, 2, 3, 4):
        size = length - 1 - digits
        if size >= len(topic) and len(remaining_length(size)) == digits:
            return [b"\x30" + remaining_length(size) + topic + LETTERS[: size - len(topic)]]
    return publish(topic, 5) + publish(topic, length - 5)


def frame(first, payload, key=None):
    """A frame, of a client if it has a key."""
    masked = 0x80 if key else 0
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, masked | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, masked | 127, length)
    return head + (key + mask(payload, key) if key else payload)


def next_frame(data, masked):
    """First byte, head, key and payload of the frame at the start, and what is behind; none if it is not whole."""
    if len(data) < 2:
        return None
    length, at = data[1] & 0x7F, 2
    if length == 126:
        if len(data) < 4:
            return None
        length, at = struct.unpack("!H", data[2:4])[0], 4
    elif length == 127:
        if len(data) < 10:
            return None
        length, at = struct.unpack("!Q", data[2:10])[0], 10
    key = bytes(data[at : at + 4]) if masked else b""
    at += len(key)
    if masked and len(key) < 4 or len(data) < at + length:
        return None
    payload = bytes(data[at : at + length])
    return data[0], bytes(data[:at]), mask(payload, key) if masked else payload, key, at + length


class Echo:
    """One connection. Bytes go in on either side; what is to be sent comes out."""

    def __init__(self):
        self.up, self.down, self.packets = bytearray(), bytearray(), bytearray()
        self.held, self.open, self.raw = [], None, False
        self.waits, self.skip = [], 2  # CONNACK and SUBACK are the relay's own
        self.topic = b"\0\1" + bytes([next(TOPICS)])

    def begin(self):
        subscribe = b"\x82\6\0\1" + self.topic + b"\0"
        return frame(0x82, CONNECT + subscribe, os.urandom(4))

    def from_client(self, data):
        """What goes to the broker, and what to the client."""
        self.up += data
        to_broker, to_client = b"", b""
        while not self.raw and (found := next_frame(self.up, True)):
            first, head, payload, key, used = found
            whole = bytes(self.up[:used])
            del self.up[:used]
            opcode, fin = first & 0x0F, first & 0x80
            control = opcode >= 8
            wrong = first & 0x70 or head[1] < 0x80 or opcode in (3, 4, 5, 6, 7) or opcode > 10
            wrong = wrong or control and (not fin or len(payload) > 125)
            wrong = wrong or not control and (opcode == 0) != (self.open is not None)
            if wrong or opcode == CLOSE:
                # Nothing behind this is a message; what is before it is a part of one.
                begun = b"\x30\xff\xff\x7f" + self.topic + LETTERS
                if self.open is not None and opcode == TEXT:
                    whole = frame(first & 0xF0 | BINARY, payload, key)
                to_broker += self.as_binary(self.held, begun) + whole
                self.held, self.raw = [], True
                break
            if control:
                if self.open is None:
                    to_broker += whole
                else:
                    self.held.append((whole, None))
                continue
            self.open = opcode if self.open is None else self.open
            self.held.append((whole, (first, payload, key)))
            if fin:
                said, answered = self.message()
                to_broker, to_client = to_broker + said, to_client + answered
        if self.raw:
            to_broker += bytes(self.up)
            self.up.clear()
        return to_broker, to_client

    def message(self):
        parts = [part for _, part in self.held if part]
        text = b"".join(payload for _, payload, _ in parts)
        opcode, held = self.open, self.held
        self.open, self.held = None, []
        controls = b"".join(whole for whole, part in held if not part)
        if len(text) < 5:
            # MQTT has nothing of that length: the relay sends it back itself.
            return controls, frame(0x80 | opcode, text)
        packets = publish(self.topic, len(text))
        self.waits.append((len(packets), opcode, text))
        return self.as_binary(held, b"".join(packets)), b""

    def as_binary(self, held, mqtt):
        """The frames of a message, with these bytes in place of its own."""
        out, at = [], 0
        for whole, part in held:
            if not part:
                out.append(whole)
                continue
            first, payload, key = part
            first = first & 0xF0 | (BINARY if first & 0x0F else 0)
            out.append(frame(first, mqtt[at : at + len(payload)], key))
            at += len(payload)
        return b"".join(out)

    def from_broker(self, data):
        """What goes to the client."""
        self.down += data
        out = []
        while found := next_frame(self.down, False):
            first, _, payload, _, used = found
            whole = bytes(self.down[:used])
            del self.down[:used]
            if first & 0x0F >= 8:
                out.append(whole)
                continue
            self.packets += payload
            while packet := self.next_packet():
                if self.skip:
                    self.skip -= 1
                    continue
                count, opcode, text = self.waits[0]
                assert packet >> 4 == 3, packet
                if count > 1:
                    self.waits[0] = (count - 1, opcode, text)
                else:
                    self.waits.pop(0)
                    out.append(frame(0x80 | opcode, text))
        return b"".join(out)

    def next_packet(self):
        """Takes the next packet, and returns its first byte."""
        length, shift = 0, 0
        for at in range(1, min(len(self.packets), 5)):
            length |= (self.packets[at] & 0x7F) << shift
            shift += 7
            if self.packets[at] < 0x80:
                if len(self.packets) < at + 1 + length:
                    return None
                first = self.packets[0]
                del self.packets[: at + 1 + length]
                return first
        return None
