"""Traces by themselves: where a request stands, and what an exporter is asked for."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind

from gateway.errors import ConfigurationError
from gateway.events import Purpose, RequestEnded, StatementRan, Timeline, Trace, together
from gateway.observability.spans import spans_of
from gateway.observability.traces import Parent, Sampling, Traces, is_wanted, read_parent, read_sampling

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01".encode()
ON = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_a_traceparent_is_read_as_the_specification_has_it() -> None:
    assert read_parent(SAMPLED) == Parent(int(TRACE, 16), int(SPAN, 16), True)
    assert read_parent(SAMPLED[:-2] + b"00") == Parent(int(TRACE, 16), int(SPAN, 16), False)
    assert read_parent(b"cc" + SAMPLED[2:] + b"-what-comes-later") == Parent(int(TRACE, 16), int(SPAN, 16), True)


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"ff" + SAMPLED[2:],
        SAMPLED + b"-more",
        SAMPLED.upper(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        SAMPLED[:-1],
        b"00-" + b"g" * 32 + b"-" + SPAN.encode() + b"-01",
        SAMPLED + b"\n",
    ],
)
def test_a_traceparent_that_is_malformed_counts_as_none(written: bytes) -> None:
    assert read_parent(written) is None


@given(st.binary(max_size=80))
def test_no_traceparent_is_a_fault(written: bytes) -> None:
    trace = Traces(ON, "tests").begin(written, written)
    assert trace is not None
    assert trace.trace_id > 0


@pytest.mark.parametrize(
    ("environ", "sampling"),
    [
        ({}, Sampling(True, 1 << 64)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampling(False, 0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Sampling(False, 1 << 62)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampling(True, 1 << 63)),
    ],
)
def test_the_sampler_is_the_standard_variables(environ: dict[str, str], sampling: Sampling) -> None:
    assert read_sampling(environ) == sampling


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_SAMPLER": "some"}, "OTEL_TRACES_SAMPLER:"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG:"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "OTEL_TRACES_SAMPLER_ARG:"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER:"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, 'OTEL_EXPORTER_OTLP_PROTOCOL: held "grpc"; takes http/protobuf'),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL:"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "soon"}, 'OTEL_BSP_SCHEDULE_DELAY: held "soon"; takes a whole number from 1'),
        ({"OTEL_BSP_EXPORT_TIMEOUT": ""}, "OTEL_BSP_EXPORT_TIMEOUT:"),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE:"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}, "OTEL_BSP_MAX_QUEUE_SIZE: is 100; takes no less than"),
    ],
)
def test_a_variable_that_holds_nonsense_stops_the_start(environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Traces({**ON, **environ}, "tests")


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize(
    "value", ["s3cr3t", "collector:4318/s3cr3t", "http://", "ftp://h/s3cr3t", "http://h:s3cr3t", "http://h:0"]
)
def test_an_endpoint_that_is_none_stops_the_start_and_is_not_told(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: takes http://") as caught:
        is_wanted({**ON, name: value})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.parametrize("value", ["s3cr3t", "Bearer s3cr3t", "a=b,s3cr3t", "x-key: s3cr3t", "=s3cr3t", "x-key=s3cr3t\n"])
def test_headers_that_are_none_stop_the_start_and_are_not_told(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}: takes name=value") as caught:
        is_wanted({**ON, name: value})
    assert "s3cr3t" not in str(caught.value)


def test_what_sends_traces_says_nothing_of_its_headers_or_its_tries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {**ON, "OTEL_EXPORTER_OTLP_HEADERS": 'authorization=Bearer%20t,x-key=";s3cr3t', "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    async def run() -> None:
        traces = Traces(environ, "tests")
        traces.start()
        ended = RequestEnded("GET", 200, 1.0, 2.0, "", "", Timeline("id-1", "/api/v1/orders", Trace(7, 8, 9, True)))
        together(traces.handlers)(ended)
        await traces.stop()

    asyncio.run(run())
    for thread in threading.enumerate():
        if thread.name == "last spans":
            thread.join(60)  # as below
    assert "s3cr3t" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("environ", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {**ON, "OTEL_SDK_DISABLED": "true"}])
def test_what_nothing_is_sent_with_is_nobodys_business(environ: dict[str, str]) -> None:
    assert not is_wanted({**environ, "OTEL_EXPORTER_OTLP_HEADERS": "nonsense", "OTEL_BSP_SCHEDULE_DELAY": "soon"})


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False),
    ],
)
def test_nothing_is_traced_until_an_exporter_is_set(environ: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environ) is wanted
    assert bool(Traces(environ, "tests").handlers) is wanted


def test_without_an_exporter_the_callers_trace_is_known_to_the_log_alone() -> None:
    traces = Traces({}, "tests")
    assert traces.begin(b"", b"") is None
    assert traces.begin(SAMPLED, b"") == Trace(int(TRACE, 16), int(SPAN, 16), sampled=False)


def test_a_parents_word_counts_where_the_sampler_says_so() -> None:
    off = {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    by_parent = Traces({**ON, **off}, "tests")
    found = by_parent.begin(SAMPLED, b"vendor=1")
    assert found is not None
    assert (found.trace_id, found.parent_id, found.sampled, found.state) == (int(TRACE, 16), int(SPAN, 16), True, "vendor=1")
    alone = by_parent.begin(b"", b"")
    assert alone is not None
    assert not alone.sampled
    deaf = Traces({**ON, "OTEL_TRACES_SAMPLER": "always_off"}, "tests").begin(SAMPLED, b"")
    assert deaf is not None
    assert not deaf.sampled


def test_a_part_of_the_requests_is_sampled() -> None:
    traces = Traces({**ON, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, "tests")
    begun = [traces.begin(b"", b"") for _ in range(10_000)]
    assert 700 < sum(trace is not None and trace.sampled for trace in begun) < 1300


def test_a_request_has_spans_for_its_stages_and_statements() -> None:
    noted = Timeline("id-1", "/api/v1/orders/{key}", Trace(7, 8, 9, True))
    noted.stages += [("plan", 1.0, 1.1), ("redis", 1.1, 1.2)]
    noted.ran(StatementRan(Purpose("get", "public.orders"), "SELECT $1", 1.2, 1.3, 1.5, 0, 3, "57"))
    noted.ran(StatementRan(Purpose("other"), "SELECT 1", 1.5, None, 1.6, 0, 1, "timeout"))
    ended = RequestEnded("GET", 503, 1.0, 2.0, "ada", "UNAVAILABLE", noted)
    spans = list(spans_of(ended, Trace(7, 8, 9, True), Resource.get_empty()))
    assert [span.name for span in spans] == [
        "plan",
        "redis",
        "pool",
        "SELECT public.orders",
        "pool",
        "GET /api/v1/orders/{key}",
    ]
    own = spans[-1]
    assert own.kind is SpanKind.SERVER
    assert own.parent is not None
    assert own.parent.span_id == 9
    assert own.start_time is not None
    assert own.end_time == own.start_time + 1_000_000_000
    assert not own.status.is_ok
    for span in spans[:-1]:
        assert span.parent is not None
        assert span.parent.span_id == 8
    statement = spans[3]
    assert dict(statement.attributes or {}) == {
        "db.system.name": "postgresql",
        "db.query.text": "SELECT $1",
        "db.response.returned_rows": 0,
        "gateway.operation": "get",
        "db.operation.name": "SELECT",
        "db.collection.name": "public.orders",
        "db.operation.batch.size": 3,
        "error.type": "57",
    }


def test_an_invented_method_is_in_no_span() -> None:
    ended = RequestEnded("SECRET", 404, 1.0, 2.0, "", "NOT_FOUND", Timeline("id", "/api/{unknown}"))
    (span,) = spans_of(ended, Trace(7, 8, 0, True), Resource.get_empty())
    assert "SECRET" not in span.to_json()


def test_a_collector_that_never_answers_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing: the exporter waits for it, and the end of the process for neither."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        traces = Traces({"OTEL_TRACES_EXPORTER": "otlp"}, "tests")

        async def run() -> None:
            traces.start()
            noted = Timeline("id", "/api/v1/orders", Trace(7, 8, 0, True))
            for _ in range(500):
                together(traces.handlers)(RequestEnded("GET", 200, 1.0, 2.0, "", "", noted))
            await traces.stop()

        asyncio.run(run())
        last = [thread for thread in threading.enumerate() if thread.name == "last spans"]
        assert last, "it is still at it, and nobody waits"
    for thread in last:
        thread.join(60)  # its pauses are random, and hypothesis takes it ill where chance is used beside it
