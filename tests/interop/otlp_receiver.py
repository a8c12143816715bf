"""A receiver of the OpenTelemetry protocol: otlp_receiver.py [REFUSALS]

Decodes what is sent by the protocol's own generated classes. Prints its port, then one JSON object for each
span. The first REFUSALS requests are answered with 503, so that they are made again. Ends with standard input.
"""

import gzip
import http.server
import json
import os
import sys
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest, ExportTraceServiceResponse)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

refusals = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def spans(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "resource": plain(resource.resource.attributes),
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind),
                    "begins": span.start_time_unix_nano,
                    "ends": span.end_time_unix_nano,
                    "flags": span.flags,
                    "error": span.status.message if span.status.code == 2 else None,
                    **plain(span.attributes),
                }


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global refusals
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":  # as the collector sends it
            body = gzip.decompress(body)
        good = (self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                and self.headers["X-Key"] == "secret")
        status = 200 if good else 400
        if good and refusals > 0:
            refusals -= 1
            status = 503
        answer = b""
        if status == 200:
            request = ExportTraceServiceRequest.FromString(body)
            # Nothing is sent that the protocol does not know.
            assert request.SerializeToString() and not request.DiscardUnknownFields()
            for span in spans(request):
                print(json.dumps(span), flush=True)
            answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        if status == 503:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
