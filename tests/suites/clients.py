"""gnutls-cli and openssl s_client in each version, suite and group that they have: a CONNECT is answered,
or the handshake refused, as it should be."""

import subprocess
import sys
import time

from servers import Servers

CONNECT = b"\x10\x0e\0\4MQTT\4\2\0\x3c\0\2s1"
CONNACK = b"\x20\2\0\0"
PING, PONG = b"\xc0\0", b"\xd0\0"
LEGACY = ["-cipher", "ALL:@SECLEVEL=0"]
failed = 0


def talk(command, pieces):
    """What a program prints that is told these pieces, one after the other."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for piece in pieces:
            time.sleep(0.4)
            child.stdin.write(piece)
            child.stdin.flush()
        time.sleep(0.4)
        child.stdin.close()
    except BrokenPipeError:
        pass
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
    return child.stdout.read()


def check(name, said, wanted, unwanted=()):
    global failed
    missing = [one for one in wanted if one not in said]
    surplus = [one for one in unwanted if one in said]
    if missing or surplus:
        failed += 1
        print(f"  FAILED {name}: without {missing}, with {surplus}:\n{said.decode(errors='replace')}")
    else:
        print(f"  ok {name}")


def openssl(servers):
    authority = ["-CAfile", str(servers.directory / "authority.crt"), "-verify_return_error"]

    def client(kind, *arguments, pieces=(CONNECT, PING)):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{servers.port[kind]}", *authority]
        return talk(command + list(arguments), pieces)

    for kind, name in (("rsa", "RSA"), ("ecdsa", "ECDSA")):
        for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"):
            suite = f"ECDHE-{name}-{suite}"
            said = client(kind, "-tls1_2", "-cipher", suite)
            check(f"TLS 1.2, {suite}", said, [CONNACK, PONG, f"Cipher is {suite}".encode()])
        for suite in ("AES128-SHA", "AES256-SHA384"):
            said = client(kind, "-tls1_2", "-cipher", f"ECDHE-{name}-{suite}:@SECLEVEL=0")
            check(f"TLS 1.2, ECDHE-{name}-{suite}: refused", said, [b"alert"], [CONNACK])
        for suite in ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256"):
            said = client(kind, "-tls1_3", "-ciphersuites", f"TLS_{suite}")
            check(f"TLS 1.3, TLS_{suite}, {name}", said, [CONNACK, PONG, f"TLS_{suite}".encode()])
        said = client(kind, "-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256")
        check(f"TLS 1.3, TLS_AES_128_CCM_SHA256, {name}: refused", said, [b"alert"], [CONNACK])
    for group in ("X25519", "P-256", "P-384"):
        for version in ("-tls1_2", "-tls1_3"):
            check(f"{version}, {group}", client("rsa", version, "-groups", group), [CONNACK, PONG])
    check("P-521: refused", client("rsa", "-tls1_3", "-groups", "P-521"), [b"alert"], [CONNACK])
    for version in ("-tls1", "-tls1_1"):
        check(f"{version}: refused", client("rsa", version, *LEGACY), [b"alert"], [CONNACK])
    said = client("rsa", "-tls1_2", "-cipher", "AES128-GCM-SHA256")
    check("TLS 1.2, RSA key exchange: refused", said, [b"alert"], [CONNACK])
    for protocol, granted in (("mqtt", True), ("h2", False)):
        for version in ("-tls1_2", "-tls1_3"):
            said = client("rsa", version, "-alpn", protocol)
            wanted = [CONNACK, f"ALPN protocol: {protocol}".encode()] if granted else [b"alert"]
            check(f"{version}, ALPN {protocol}", said, wanted, [] if granted else [CONNACK])
    for version in ("-tls1_2", "-tls1_3"):
        kept = str(servers.directory / "session")
        client("rsa", version, "-sess_out", kept)
        check(f"{version}, resumed", client("rsa", version, "-sess_in", kept), [CONNACK, b"Reused, TLSv1."])
        certificate, key = servers.pair("client")
        said = client("mutual", version, "-cert", certificate, "-key", key)
        check(f"{version}, a certificate of RSA", said, [CONNACK, PONG])
        certificate, key = servers.pair("client-ecdsa")
        said = client("mutual", version, "-cert", certificate, "-key", key)
        check(f"{version}, a certificate of ECDSA", said, [CONNACK, PONG])
        certificate, key = servers.pair("rsa")
        said = client("mutual", version, "-cert", certificate, "-key", key)
        check(f"{version}, a server's certificate: refused", said, [b"alert"], [PONG])
    said = client("rsa", "-tls1_3", pieces=(CONNECT, b"K\n", PING, b"k\n", PING))
    check("KeyUpdate, both kinds", said, [CONNACK, PONG, b"KEYUPDATE"])
    said = client("rsa", "-tls1_2", pieces=(CONNECT, b"R\n"))
    check("renegotiation: refused", said, [CONNACK, b"no renegotiation"])
    check("-fallback_scsv", client("rsa", "-tls1_2", "-fallback_scsv"), [b"inappropriate fallback"], [CONNACK])
    check("records of 512 bytes", client("rsa", "-tls1_3", "-split_send_frag", "512"), [CONNACK, PONG])
    check("a name nobody has", client("rsa", "-servername", "other.example"), [CONNACK, PONG])


def gnutls(servers):
    authority = f"--x509cafile={servers.directory}/authority.crt"

    def client(kind, priority, *arguments, pieces=(CONNECT, PING)):
        command = ["gnutls-cli", authority, f"--port={servers.port[kind]}", f"--priority={priority}"]
        return talk(command + ["--verify-hostname=localhost", *arguments, "127.0.0.1"], pieces)

    for kind in ("rsa", "ecdsa"):
        for version in ("1.2", "1.3"):
            base = f"NORMAL:-VERS-ALL:+VERS-TLS{version}"
            for cipher in ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"):
                said = client(kind, f"{base}:-CIPHER-ALL:+{cipher}")
                check(f"gnutls, TLS {version}, {cipher}, {kind}", said, [CONNACK, PONG, cipher.encode()])
            for group in ("SECP256R1", "SECP384R1", "X25519"):
                said = client(kind, f"{base}:-GROUP-ALL:+GROUP-{group}")
                check(f"gnutls, TLS {version}, {group}, {kind}", said, [CONNACK, PONG])
    for what, priority in (
        ("TLS 1.0 and 1.1", "LEGACY:-VERS-ALL:+VERS-TLS1.0:+VERS-TLS1.1"),
        ("CBC", "LEGACY:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC"),
        ("RSA key exchange", "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA"),
        ("P-521", "NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-SECP521R1"),
    ):
        check(f"gnutls, {what}: refused", client("rsa", priority), [b"alert"], [CONNACK])
    for version in ("1.2", "1.3"):
        base = f"NORMAL:-VERS-ALL:+VERS-TLS{version}"
        for name in ("client", "client-ecdsa"):
            certificate, key = servers.pair(name)
            given = [f"--x509certfile={certificate}", f"--x509keyfile={key}"]
            check(f"gnutls, TLS {version}, {name}", client("mutual", base, *given), [CONNACK, PONG])
        said = client("rsa", base, "--alpn=mqtt")
        check(f"gnutls, TLS {version}, ALPN", said, [CONNACK, b"Application protocol: mqtt"])
    said = client("rsa", "NORMAL:-VERS-ALL:+VERS-TLS1.2", "--resume", pieces=(CONNECT,))
    check("gnutls, TLS 1.2, resumed", said, [b"This is a resumed session"])
    said = client("rsa", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "--inline-commands", pieces=(b"^rekey^\n", CONNECT, PING))
    check("gnutls, KeyUpdate", said, [b"Rekey was completed", CONNACK, PONG])
    said = client("rsa", "NORMAL:%ALLOW_SMALL_RECORDS", "--recordsize=512")
    check("gnutls, record_size_limit", said, [CONNACK, PONG])


def main():
    with Servers(bare=False) as servers:
        print("openssl s_client:")
        openssl(servers)
        print("gnutls-cli:")
        gnutls(servers)
        assert servers.is_alive(), "the broker has ended"
    print(f"{failed} failed")
    sys.exit(failed > 0)


main()
