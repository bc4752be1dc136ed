"""A server of ebus whose NATS server stops answering, dies, and comes back."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.http.conftest import write_config
from tests.http.tails import SSE, Follower
from tests.live_server import serving
from tests.nats.engines import address_at
from tests.nats.monitoring import wait_for
from tests.nats.servers import NatsServer

KEY = "k" * 40
EVENT = {"type": "T", "data": 1}


def test_a_server_that_loses_its_cluster_keeps_its_other_duties_and_goes_on_when_it_is_back(
    tmp_path: Path, nats_directory: Path
) -> None:
    with NatsServer(nats_directory / "away") as nats:
        tenants = [{"name": "acme", "api_key": KEY}]
        address = address_at(nats.url, timeout_s=0.5)
        write_config(tmp_path / "tenants.yaml", {"engine": address, "tenants": tenants})
        with (
            serving(["--config", "tenants.yaml"], cwd=tmp_path) as server,
            httpx.Client(base_url=server.url, headers={"X-API-Key": KEY}, timeout=60) as client,
            Follower(server.port, KEY, SSE, {"from": 1}) as follower,
        ):

            def append() -> httpx.Response:
                return client.post("/events", json=EVENT)

            def is_away() -> None:
                refused = append()
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
                assert client.get("/health").status_code == 503
                wrong = {"X-API-Key": "wrong"}
                assert client.get("/position", headers=wrong).status_code == 401
                assert client.get("/ui").status_code == 200

            assert append().status_code == 200
            follower.take(1)
            nats.pause()
            is_away()
            nats.resume()
            wait_for(lambda: append().is_success, "the server to reach the cluster")
            nats.kill()
            is_away()
            nats.start()
            wait_for(lambda: append().is_success, "the server to reach the cluster")
            wait_for(lambda: client.get("/health").is_success, "the server to be well")
            head = client.get("/position").json()["position"]
            follower.take(head)
            assert follower.positions == list(range(1, head + 1))
            nats.kill()
            is_away()  # and stops all the same
        assert "Traceback" not in server.log
