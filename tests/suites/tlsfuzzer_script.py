"""Runs one script of tlsfuzzer against a server that speaks MQTT, or one that echoes.

    tlsfuzzer_script.py DIRECTORY SCRIPT ARGUMENT...

DIRECTORY holds tlsfuzzer. Its scripts expect a server of HTTP, with suites that rustls does not have.
So, before the script runs:
- What would be a request of HTTP is of the same length, but MQTT: a CONNECT first, then a PINGREQ
  behind a PUBLISH that fills the rest. Each is answered by one packet, as a request would be. A
  server that only echoes answers that as well.
- Where a script asks for ECDHE with AES-128 in CBC mode it gets the same with GCM.
- What the script chooses by chance is the same in each run.
"""

import os
import random
import string
import sys

directory, script, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
sys.path.insert(0, directory)
names = random.Random(os.urandom(16))
chance = random.Random(1)
os.urandom = random._urandom = chance.randbytes

from tlslite.constants import CipherSuite  # noqa: E402
from tlslite.messages import ApplicationData  # noqa: E402
from tlsfuzzer import messages  # noqa: E402

for signature in ("RSA", "ECDSA"):
    with_gcm = getattr(CipherSuite, f"TLS_ECDHE_{signature}_WITH_AES_128_GCM_SHA256")
    for mac in ("SHA", "SHA256"):
        name = f"TLS_ECDHE_{signature}_WITH_AES_128_CBC_{mac}"
        if hasattr(CipherSuite, name):
            setattr(CipherSuite, name, with_gcm)


def remaining_length(count):
    out = bytearray()
    while True:
        count, low = divmod(count, 128)
        out.append(low | (128 if count else 0))
        if not count:
            return out


def packet(first, length, begin):
    """A packet of `length` bytes, of whose body `begin(size)` is the beginning and letters the rest;
    none when there is none of that length."""
    for digits in (1, 2, 3):
        size = length - 1 - digits
        body = begin(size) if size >= 0 else None
        if body and len(remaining_length(size)) == digits and len(body) <= size:
            letters = "".join(names.choices(string.ascii_letters, k=size - len(body)))
            return bytearray([first]) + remaining_length(size) + body + letters.encode()
    return None


def connect(length):
    """A CONNECT of MQTT 3.1.1 with a ClientId that makes it as long as that."""
    head = b"\0\4MQTT\4\2\0\0"
    fits = lambda size: 0 < size - len(head) - 2 <= 0xFFFF
    begin = lambda size: head + (size - len(head) - 2).to_bytes(2, "big") if fits(size) else None
    return packet(0x10, length, begin)


def mqtt(payload, begun):
    length = len(payload)
    if not begun:
        return connect(length)
    if length == 2:
        return bytearray(b"\xc0\0")
    publish = packet(0x30, length - 2, lambda size: b"\0\1t")
    return publish and publish + b"\xc0\0"


def generate(self, status):
    payload = bytearray(self.payload)
    if payload.startswith((b"GET ", b"AAA")):
        said = mqtt(payload, getattr(status, "speaks_mqtt", False))
        if said:
            status.speaks_mqtt = True
            payload = said
    return ApplicationData().create(payload)


process = messages.Connect.process


def begin(self, state):
    state.speaks_mqtt = False
    process(self, state)


messages.ApplicationDataGenerator.generate = generate
messages.Connect.process = begin
random.seed(1)
sys.argv = [script] + arguments
module = script.removesuffix(".py").replace("-", "_")
__import__("tlsfuzzer._apps." + module, fromlist=["main"]).main()
