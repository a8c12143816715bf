"""Paho over mutual TLS: 200 QoS 1 messages of up to 40 kB there and back, in order.

paho_tls.py PORT CA CERTIFICATE KEY
"""

import sys
import threading

import paho.mqtt.client as mqtt

COUNT = 200


def main(port, authority, certificate, key):
    done, got = threading.Event(), []

    def on_connect(client, _userdata, _flags, reason, _properties):
        assert reason == 0, reason
        client.subscribe("echo/#", qos=1)

    def on_subscribe(client, *_):
        for number in range(COUNT):
            client.publish("echo/x", bytes([number % 256]) * (number * 200 + 1), qos=1)

    def on_message(_client, _userdata, message):
        got.append(message.payload)
        if len(got) == COUNT:
            done.set()

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.tls_set(ca_certs=authority, certfile=certificate, keyfile=key)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert done.wait(30), f"{len(got)} of {COUNT}"
    client.disconnect()
    client.loop_stop()
    assert got == [bytes([number % 256]) * (number * 200 + 1) for number in range(COUNT)]
    print(f"{COUNT} messages over TLS")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
