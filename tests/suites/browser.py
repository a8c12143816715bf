"""A browser over ws and wss: headless Chromium runs browser.html with MQTT.js.

    browser.py DIRECTORY      DIRECTORY holds node_modules/mqtt
"""

import base64
import hashlib
import http.server
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse

from servers import Servers

HERE = pathlib.Path(__file__).resolve().parent
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions""".split()


def public_key(certificate):
    """What Chromium wants of a certificate of an authority that it does not know."""
    key = ["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]
    pem = subprocess.run(key, capture_output=True, check=True).stdout
    der = ["openssl", "pkey", "-pubin", "-outform", "der"]
    der = subprocess.run(der, input=pem, capture_output=True, check=True).stdout
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def serve(script, done):
    pages = {"/mqtt.min.js": (script, "text/javascript"), "/": (HERE / "browser.html", "text/html")}

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            file, kind = pages.get(urllib.parse.urlparse(self.path).path, (None, None))
            self.answer(file.read_bytes() if file else b"", kind or "text/plain", 200 if file else 404)

        def do_POST(self):
            done.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.answer(b"", "text/plain", 200)

        def answer(self, body, kind, status):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def main():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium: apt install chromium"
    done = queue.Queue()
    port = serve(pathlib.Path(sys.argv[1], "node_modules/mqtt/dist/mqtt.min.js"), done)
    with Servers(bare=False) as servers, tempfile.TemporaryDirectory() as profile:
        urls = [("url", f"{kind}://127.0.0.1:{servers.port[kind]}/mqtt") for kind in ("ws", "wss")]
        known = "--ignore-certificate-errors-spki-list=" + public_key(servers.pair("rsa")[0])
        page = f"http://127.0.0.1:{port}/?{urllib.parse.urlencode(urls)}"
        command = [chromium, *FLAGS, known, f"--user-data-dir={profile}", page]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            results = done.get(timeout=180).splitlines()
        except queue.Empty:
            sys.exit("the browser has not told anything")
        finally:
            browser.terminate()
            browser.wait(20)
        assert servers.is_alive(), "the broker has ended"
    print("browser:", *results, sep="\n  ")
    sys.exit(len(results) != 4 or any(not line.startswith("ok") for line in results))


main()
