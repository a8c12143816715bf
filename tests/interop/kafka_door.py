"""A door before a Kafka broker that knows no users: it asks who comes (SASL: PLAIN, SCRAM by another
implementation than the client's, OAUTHBEARER), over TLS if there is a certificate, and passes on what
comes afterwards. Python's TLS is OpenSSL. It also is an OAuth 2.0 token endpoint, whose tokens it lets in.

  kafka_door.py PORT BROKER-PORT SETTINGS     PORT: where it listens, 0 for any; SETTINGS: JSON

Prints its port and the port of the token endpoint, then a line for everybody who is let in or turned
away, and for every token that it gives."""

import base64, hmac, http.server, json, pathlib, secrets, socket, ssl, struct, sys, threading, time
import urllib.parse

from scramp import ScramException, ScramMechanism

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
UNSUPPORTED, ILLEGAL, FAILED = 33, 34, 58
given = {}  # tokens of the endpoint, and when they end


def say(*words):
    print(*words, flush=True)


class Refused(Exception):
    pass


def exactly(stream, size):
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise OSError("closed")
        data += part
    return data


def frame(stream):
    return exactly(stream, struct.unpack(">i", exactly(stream, 4))[0])


def text(data):
    size = struct.unpack(">h", data[:2])[0]
    return data[2:2 + size].decode()


def send(stream, body):
    stream.sendall(struct.pack(">i", len(body)) + body)


def plain(message, settings):
    _, user, password = message.split(b"\0")
    if not hmac.compare_digest(password.decode(), settings["users"].get(user.decode(), "")):
        raise Refused("wrong password")
    return user.decode()


def bearer(message, settings):
    fields = dict(part.split("=", 1) for part in message.decode().split("\1") if "=" in part[2:])
    token = fields.get("auth", "").removeprefix("Bearer ")
    known = [line for line in pathlib.Path(settings["tokens"]).read_text().splitlines()] \
        if "tokens" in settings else []
    if token not in known and given.get(token, 0) < time.time():
        raise Refused("unknown token")
    return "token"


class Scram:
    def __init__(self, mechanism, settings):
        mechanism = ScramMechanism(mechanism)

        def known(user):
            if user not in settings["users"]:
                raise Refused("unknown user")
            self.user = user
            return mechanism.make_auth_info(settings["users"][user])
        self.server, self.first = mechanism.make_server(known), True

    def step(self, message):
        try:
            if self.first:
                self.first = False
                self.server.set_client_first(message.decode())
                return self.server.get_server_first().encode(), None
            self.server.set_client_final(message.decode())
            return self.server.get_server_final().encode(), self.user
        except ScramException as error:
            raise Refused(str(error)) from None


def ask(stream, broker, settings):
    """Lets somebody in, or raises."""
    mechanism, scram = None, None
    while True:
        request = frame(stream)
        api, version, number = struct.unpack(">hhi", request[:8])
        head, rest = struct.pack(">i", number), request[8:]
        if api == API_VERSIONS:
            send(broker, request)
            send(stream, frame(broker))
            continue
        rest = rest[2 + max(0, struct.unpack(">h", rest[:2])[0]):]  # without the client's name
        if api == SASL_HANDSHAKE:
            mechanism, known = text(rest), settings["mechanisms"]
            names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in known)
            wrong = 0 if mechanism in known else UNSUPPORTED
            send(stream, head + struct.pack(">hi", wrong, len(known)) + names)
            if wrong:
                raise Refused(f"no {mechanism}")
            scram = Scram(mechanism, settings) if mechanism.startswith("SCRAM") else None
            continue
        if api != SASL_AUTHENTICATE or mechanism is None or version > 1:
            raise Refused(f"request {api} of version {version} before who it is")
        message, user = rest[4:4 + struct.unpack(">i", rest[:4])[0]], None
        lifetime = struct.pack(">q", 0) if version == 1 else b""
        try:
            if scram:
                answer, user = scram.step(message)
            else:
                answer, user = b"", (plain if mechanism == "PLAIN" else bearer)(message, settings)
        except Refused as why:
            why = str(why).encode()
            send(stream, head + struct.pack(">hh", FAILED, len(why)) + why + struct.pack(">i", 0)
                 + lifetime)
            raise
        send(stream, head + struct.pack(">hhi", 0, -1, len(answer)) + answer + lifetime)
        if user is not None:
            return mechanism, user


def pump(one, other):
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    for end in (one, other):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(stream, to, settings, tls):
    try:
        if tls:
            stream = tls.wrap_socket(stream, server_side=True)
        broker = socket.create_connection(("127.0.0.1", to))
        mechanism, user = ask(stream, broker, settings)
    except (OSError, Refused) as why:
        say("refused", str(why) or type(why).__name__)
        stream.close()
        return
    say("in", mechanism, user, stream.version() if tls else "plain")
    threading.Thread(target=pump, args=(broker, stream), daemon=True).start()
    pump(stream, broker)


class TokenEndpoint(http.server.BaseHTTPRequestHandler):
    settings = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        fields, known = dict(urllib.parse.parse_qsl(body)), self.settings["clients"]
        kind, _, pair = self.headers.get("authorization", "").partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        name, secret = urllib.parse.unquote_plus(name), urllib.parse.unquote_plus(secret)
        good = kind == "Basic" and known.get(name) == secret and secret
        good = good and fields == {"grant_type": "client_credentials", "scope": "kafka write"}
        seconds = self.settings.get("seconds", 60)
        if good:
            token = secrets.token_urlsafe(16)
            given[token] = time.time() + seconds
            answer = {"access_token": token, "token_type": "bearer", "expires_in": seconds}
        else:
            answer = {"error": "invalid_client"}
        answer = json.dumps(answer).encode()
        self.send_response(200 if good else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        say("gave" if good else "gave nothing", name)

    def log_message(self, *_):
        pass


def context(settings):
    if "certificate" not in settings:
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(settings["certificate"], settings["key"])
    if "clients_ca" in settings:
        tls.load_verify_locations(settings["clients_ca"])
        tls.verify_mode = ssl.CERT_REQUIRED
    return tls


def main():
    port, to, settings = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    tls = context(settings)
    TokenEndpoint.settings = settings
    endpoint = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenEndpoint)
    if tls:
        asks_nobody = context({**settings, "clients_ca": settings["certificate"]})
        asks_nobody.verify_mode = ssl.CERT_NONE
        endpoint.socket = asks_nobody.wrap_socket(endpoint.socket, server_side=True)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", port))
    say(listener.getsockname()[1])
    say(endpoint.server_address[1])
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream, to, settings, tls), daemon=True).start()


main()
