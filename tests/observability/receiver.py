"""An OTLP/HTTP receiver: a real server on a free port, which decodes what it is sent."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

PATIENCE_SECONDS = 30.0


class Receiver:
    """What came: spans by their traces, the resources they came from, and the headers of each delivery."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.raw = b""

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """One delivery."""
        self.raw += body
        request = ExportTraceServiceRequest.FromString(body)
        self.headers.append(headers)
        for group in request.resource_spans:
            self.resources.append(attributes(group.resource))
            for scoped in group.scope_spans:
                self.spans += scoped.spans

    def wait_for(self, found: Callable[[list[Any]], bool]) -> list[Any]:
        """The spans, once they are as wanted."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not found(self.spans):
            assert time.monotonic() < end, f"not among {[span.name for span in self.spans]}"
            time.sleep(0.02)
        return self.spans

    def trace(self, trace_id: str) -> list[Any]:
        """A trace's spans, once the request's own is there, which is handed over last."""

        def of(spans: list[Any]) -> list[Any]:
            return [span for span in spans if span.trace_id.hex() == trace_id]

        self.wait_for(lambda spans: any(span.kind == span.SPAN_KIND_SERVER for span in of(spans)))
        return of(self.spans)


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_arguments: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE_SECONDS)
