"""Paho over ws or wss: messages of all QoS up to 100 kB there and back, in order.

paho_web.py ws|wss PORT CA [ADDRESS [CLIENT_ID]]      ADDRESS: where the client comes from
"""

import sys
import threading

import paho.mqtt.client as mqtt

COUNT = 30


def main(transport, port, authority, address="", client_id="paho-web"):
    done, got = threading.Event(), []

    def on_connect(client, _userdata, _flags, reason, _properties):
        assert reason == 0, reason
        client.subscribe("echo/#", qos=2)

    def on_subscribe(client, *_):
        for number in range(COUNT):
            client.publish(f"echo/{number % 3}", body(number), qos=number % 3)

    def on_message(_client, _userdata, message):
        got.append((message.topic, message.payload))
        if len(got) == COUNT:
            done.set()

    def body(number):
        return bytes([number]) * (number * 3500 + 1)

    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5, transport="websockets"
    )
    if transport == "wss":
        client.tls_set(ca_certs=authority)
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect("127.0.0.1", int(port), bind_address=address)
    client.loop_start()
    assert done.wait(30), f"{len(got)} of {COUNT}"
    client.disconnect()
    client.loop_stop()
    for qos in range(3):
        expected = [body(number) for number in range(COUNT) if number % 3 == qos]
        assert [payload for topic, payload in got if topic == f"echo/{qos}"] == expected, qos
    print(f"{COUNT} messages over {transport}")


if __name__ == "__main__":
    main(*sys.argv[1:])
