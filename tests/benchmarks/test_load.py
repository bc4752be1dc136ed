"""Load is what was asked for, and a wrong answer is an error of the run."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from benchmarks import wrk
from benchmarks.appending import check_append, check_batch
from benchmarks.errors import BenchmarkFailed
from benchmarks.open_loop import Latencies, measure_latencies
from benchmarks.servers import Server, resident_bytes, serving
from benchmarks.workload import BARE, Request, append_requests, make_tenants, position_requests

STRANGER = make_tenants(2)[1]
"""A tenant that the server does not know."""

REFUSED = "401|429"
"""How his requests are answered: after the first ones his address is throttled."""


def test_wrk_counts_what_was_answered(ebus: Server) -> None:
    [tenant] = make_tenants(1)
    before = ebus.head(tenant)
    sent = wrk.load(ebus, append_requests([tenant] * 7), connections=3, seconds=0.1)
    assert sent.requests <= ebus.head(tenant) - before <= sent.requests + 3


def test_wrk_fails_when_an_answer_is_an_error(ebus: Server) -> None:
    with pytest.raises(BenchmarkFailed, match=r"'status': [1-9]"):
        wrk.load(ebus, position_requests(STRANGER), connections=2, seconds=0.1)


def test_wrk_fails_when_nobody_listens(ebus: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = _at(taken.getsockname()[1])
    with pytest.raises(BenchmarkFailed, match="wrk"):
        wrk.load(nobody, BARE, connections=2, seconds=0.1)


def test_without_wrk_it_is_said_how_to_install_it(
    bare: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchmarkFailed, match="benchmarks/install_wrk"):
        wrk.load(bare, BARE, connections=1, seconds=0.1)


def test_a_fixed_rate_sends_each_request_once(ebus: Server) -> None:
    [tenant] = make_tenants(1)
    before = ebus.head(tenant)
    requests = append_requests([tenant] * 3)
    latencies = measure_latencies(ebus, requests, rate_per_s=200, seconds=0.1)
    assert len(latencies.seconds) == 20
    assert ebus.head(tenant) - before == 20


def test_a_fixed_rate_fails_when_an_answer_is_an_error(ebus: Server) -> None:
    with pytest.raises(BenchmarkFailed, match=REFUSED):
        measure_latencies(ebus, position_requests(STRANGER), rate_per_s=100, seconds=0.05)


def test_a_stall_is_charged_to_every_request_that_was_due_meanwhile() -> None:
    """The server answers nobody until ten have asked: the first has waited for the tenth."""
    due_together, rate_per_s = 10, 100
    with socket.create_server(("127.0.0.1", 0), backlog=128) as taken:
        server = _at(taken.getsockname()[1])

        def answer() -> None:
            clients = [taken.accept()[0] for _ in range(64)]
            asked: list[socket.socket] = []
            for client in clients:
                client.setblocking(False)
            while len(asked) < due_together:
                for client in clients:
                    try:
                        if client.recv(65_536):
                            asked.append(client)
                    except BlockingIOError:
                        continue
            for client in asked:
                client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            for client in clients:
                client.close()

        answering = threading.Thread(target=answer)
        answering.start()
        latencies = measure_latencies(
            server, BARE, rate_per_s=rate_per_s, seconds=due_together / rate_per_s
        )
        answering.join()
    for number, latency in enumerate(reversed(latencies.seconds)):
        assert latency >= (due_together - 1 - number) / rate_per_s


def test_percentiles_are_those_of_the_requests() -> None:
    latencies = Latencies([number / 1e3 for number in range(1, 1_001)])
    assert [latencies.percentile_ms(percent) for percent in (50, 99, 99.9)] == [501, 991, 1_000]
    assert Latencies([0.5]).percentile_ms(99.9) == 500


def test_an_append_that_is_refused_is_no_benchmark(ebus: Server) -> None:
    with pytest.raises(BenchmarkFailed, match=REFUSED):
        check_append(ebus, STRANGER)
    with pytest.raises(BenchmarkFailed, match=REFUSED):
        check_batch(ebus, STRANGER, 10)


def test_the_bare_server_answers_100_bytes(bare: Server) -> None:
    assert len(bare.answer(BARE[0])) == 100
    assert len(bare.answer(Request(method="POST", path="/events", body=b"{}"))) == 100


def test_memory_is_that_of_the_process(bare: Server) -> None:
    assert resident_bytes(bare) > 2**20


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchmarkFailed, match="No module named"),
        serving(["-m", "no"], cwd=tmp_path),
    ):
        pass


def _at(port: int) -> Server:
    """A server that was not started here."""
    server = Server.__new__(Server)
    server.port = port
    return server
