"""What the suites of this directory are run against: a broker with a listener of each type, and servers
of bare rustls with the same certificates. Of the root of the tree, with what `cargo build` has made."""

import pathlib
import re
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def certificate(directory, name, key, signed_by=None, usage="serverAuth"):
    """NAME.crt and NAME.key, by openssl: an authority, or what it has signed."""
    path = lambda kind, of=name: str(directory / f"{of}.{kind}")
    make = ["openssl", "req", "-newkey", *key, "-nodes", "-subj", f"/CN={name}", "-keyout", path("key")]
    if signed_by is None:
        extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        run(make + ["-x509", "-days", "30", "-out", path("crt")] + extensions)
        return
    run(make + ["-out", path("csr")])
    extensions = directory / "extensions"
    extensions.write_text(
        f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n"
        "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n"
    )
    run(
        ["openssl", "x509", "-req", "-days", "20", "-in", path("csr"), "-CA", path("crt", signed_by)]
        + ["-CAkey", path("key", signed_by), "-CAcreateserial", "-extfile", str(extensions)]
        + ["-out", path("crt")]
    )


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"


RSA = ["rsa:2048"]
P256 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


class Servers:
    """`port[TYPE]` of the broker, `bare[TYPE]` of rustls: `rsa`, `ecdsa`, `mutual` (which asks for a
    certificate), and of the broker `ws` and `wss` as well."""

    def __init__(self, bare=True):
        self.held = tempfile.TemporaryDirectory(prefix="ringmq-suites")
        self.directory = pathlib.Path(self.held.name)
        certificate(self.directory, "authority", P256)
        certificate(self.directory, "rsa", RSA, "authority")
        certificate(self.directory, "ecdsa", P256, "authority")
        certificate(self.directory, "client", RSA, "authority", "clientAuth")
        certificate(self.directory, "client-ecdsa", P256, "authority", "clientAuth")
        self.running, self.bare = [], {}
        self.start_broker()
        for kind in ("rsa", "ecdsa", "mutual") if bare else ():
            pair = self.pair("rsa" if kind == "mutual" else kind)
            authority = [str(self.directory / "authority.crt")] if kind == "mutual" else []
            command = [ROOT / "target/debug/examples/rustls_echo", *pair, *authority]
            server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL)
            self.running.append(server)
            self.bare[kind] = int(server.stdout.readline())

    def pair(self, name):
        return [str(self.directory / f"{name}.crt"), str(self.directory / f"{name}.key")]

    def start_broker(self):
        def tls(name, more=""):
            certificate, key = self.pair(name)
            return f"tls: {{certificate: '{certificate}', private_key: '{key}', alpn: [http/1.1, mqtt]{more}}}"

        asks = f", client_ca: '{self.directory}/authority.crt', client_certificate: optional"
        listeners = {
            "rsa": ("tls", tls("rsa")),
            "ecdsa": ("tls", tls("ecdsa")),
            "mutual": ("tls", tls("rsa", asks)),
            "ws": ("ws", ""),
            "wss": ("wss", tls("rsa")),
        }
        lines = [
            f"  - {{name: {name}, type: {kind}, bind: '127.0.0.1:0'{', ' * bool(more)}{more}}}"
            for name, (kind, more) in listeners.items()
        ]
        config = self.directory / "ringmq.yaml"
        # Of the cases of WebSocket some have messages of 16 MiB.
        mqtt = "mqtt: {max_packet_size: 32MiB, outgoing_max_bytes: 64MiB}"
        config.write_text("\n".join(["cores: [0]", mqtt, "listeners:", *lines, ""]))
        self.log = self.directory / "log"
        with open(self.log, "w") as log:
            command = [ROOT / "target/debug/ringmq", "--config", config]
            self.broker = subprocess.Popen(command, stdout=log, stderr=log)
        self.running.append(self.broker)
        for _ in range(200):
            time.sleep(0.05)
            ready = [line for line in self.log.read_text().splitlines() if " ready" in line]
            if ready:
                break
        else:
            raise SystemExit(f"the broker does not start:\n{self.log.read_text()}")
        ports = re.findall(r"127\.0\.0\.1:(\d+)", ready[0])
        self.port = dict(zip(listeners, map(int, ports)))

    def is_alive(self):
        return self.broker.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.running:
            one.terminate()
        for one in self.running:
            try:
                one.wait(15)
            except subprocess.TimeoutExpired:
                one.kill()
        self.held.cleanup()
