// A small MQTT 3.1.1 client over WebSocket for the console: QoS 0, enough to look and to try.
const utf8 = new TextEncoder();

function text(value) {
  const bytes = utf8.encode(value);
  return [bytes.length >> 8, bytes.length & 255, ...bytes];
}

function packet(type, body) {
  const length = [];
  let rest = body.length;
  do {
    length.push((rest & 127) | (rest > 127 ? 128 : 0));
    rest >>= 7;
  } while (rest > 0);
  return new Uint8Array([type, ...length, ...body]);
}

export class Client {
  constructor(url, { username, password, onmessage, onstate }) {
    this.onmessage = onmessage;
    this.onstate = onstate;
    this.id = 0;
    this.buffer = new Uint8Array();
    this.socket = new WebSocket(url, "mqtt");
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      const flags = 2 | (username ? 128 : 0) | (username && password ? 64 : 0);
      const name = `dashboard-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
      this.send(16, [...text("MQTT"), 4, flags, 0, 60, ...text(name),
        ...(username ? text(username) : []), ...(username && password ? text(password) : [])]);
      this.ping = setInterval(() => this.send(192, []), 30000);
    };
    this.socket.onmessage = ({ data }) => this.received(new Uint8Array(data));
    this.socket.onerror = () => this.onstate("failed");
    this.socket.onclose = () => { clearInterval(this.ping); this.onstate("closed"); };
  }

  send(type, body) { if (this.socket.readyState === 1) this.socket.send(packet(type, body)); }

  received(bytes) {
    const all = new Uint8Array(this.buffer.length + bytes.length);
    all.set(this.buffer);
    all.set(bytes, this.buffer.length);
    let at = 0;
    for (;;) {
      let length = 0, shift = 0, head = at + 1, byte;
      do {
        byte = all[head++];
        if (byte === undefined) { this.buffer = all.slice(at); return; }
        length |= (byte & 127) << shift;
        shift += 7;
      } while (byte & 128);
      if (head + length > all.length) { this.buffer = all.slice(at); return; }
      this.packet(all[at], all.subarray(head, head + length));
      at = head + length;
    }
  }

  packet(first, body) {
    const type = first >> 4;
    if (type === 2) this.onstate(body[1] === 0 ? "connected" : `refused (code ${body[1]})`);
    if (type === 9 && body[2] === 128) this.onstate("the broker does not allow that subscription");
    if (type !== 3) return;
    const length = body[0] << 8 | body[1];
    const topic = new TextDecoder().decode(body.subarray(2, 2 + length));
    const skip = 2 + length + (first & 6 ? 2 : 0);
    this.onmessage({ topic, payload: body.slice(skip), retain: Boolean(first & 1) });
  }

  next() { this.id = this.id % 65535 + 1; return [this.id >> 8, this.id & 255]; }
  subscribe(filter) { this.send(130, [...this.next(), ...text(filter), 0]); }
  unsubscribe(filter) { this.send(162, [...this.next(), ...text(filter)]); }
  publish(topic, payload, retain) { this.send(48 | (retain ? 1 : 0), [...text(topic), ...utf8.encode(payload)]); }
  close() { this.send(224, []); this.socket.close(); }
}
