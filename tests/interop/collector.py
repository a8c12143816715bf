"""A collector of OpenTelemetry between the broker and a receiver: collector.py RECEIVER_PORT

It is rotel (Apache-2.0), which its package on PyPI contains as a program. Prints the port where it takes OTLP over
HTTP, and becomes that program; it sends what it takes to the receiver, by OTLP over HTTP, with the header X-Key.
"""

import os
import socket
import sys
import tempfile

import rotel

taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
http, grpc = (one.getsockname()[1] for one in taken)
for one in taken:
    one.close()
print(http, flush=True)
program = os.path.join(os.path.dirname(rotel.__file__), "rotel-agent")
directory = tempfile.gettempdir()
words = {
    "--otlp-http-endpoint": f"127.0.0.1:{http}",
    "--otlp-grpc-endpoint": f"127.0.0.1:{grpc}",
    "--exporter": "otlp",
    "--otlp-exporter-endpoint": f"http://127.0.0.1:{sys.argv[1]}",
    "--otlp-exporter-protocol": "http",
    "--otlp-exporter-custom-headers": "X-Key=secret",
    "--batch-timeout": "50ms",
    "--pid-file": os.path.join(directory, f"ringmq-rotel-{os.getpid()}.pid"),
}
# Its lines are of no use to who reads the port.
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
os.execv(program, [program, "start", *(word for pair in words.items() for word in pair)])
