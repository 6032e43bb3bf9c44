"""Which doors a coordinator has, what it says of them, and the web hook that hears of what does not get on."""

import json
import socket
from collections.abc import Callable

import pytest

from dtm_service import BROKEN, BranchService, DtmClient, saga, service
from fixtures_coordinator import CoordinatorProcess, until
from troth.server.config import Config
from troth.server.sources import ConfigError, load_settings

__all__ = ["service"]


@pytest.mark.engines
@pytest.mark.soak
def test_the_web_hook_hears_of_a_branch_that_fails_again_and_again(
    new_coordinator: Callable[..., CoordinatorProcess], service: BranchService
) -> None:
    coordinator = new_coordinator(
        "dtm.retry_interval=50ms", "dtm.alert_retry_limit=2", f"dtm.alert_web_hook={service.url('/hook?a=1')}"
    ).start()
    dtm = DtmClient(coordinator.ready["dtm_http_port"])
    service.say("/a", BROKEN, BROKEN, BROKEN, (200, "ok"))
    service.say("/hook", BROKEN)  # whatever it says
    dtm.post("submit", gid="g", **saga(service, "a"))
    dtm.ends_as("g", "succeed")
    until(lambda: len(service.of("/hook")) == 2)
    alerts = [json.loads(called.body) for called in service.of("/hook")]
    assert [(one["gid"], one["status"], one["branch"], one["retry_count"]) for one in alerts] == [
        ("g", "submitted", "01", 2),
        ("g", "submitted", "01", 3),
    ]
    assert "500 from http://127.0.0.1" in alerts[0]["error"]


@pytest.mark.engines
def test_a_port_that_is_taken(new_coordinator: Callable[..., CoordinatorProcess]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # who names it is told
        asked = new_coordinator(args=("--dtm-http-port", str(port)))
        with pytest.raises(AssertionError):
            asked.start()
        assert asked.wait() == 1
        assert f"port {port} at 127.0.0.1 is taken" in asked.log()
        assert "--dtm-http-port" in asked.log()
    off = new_coordinator(args=("--dtm-http-port", "off")).start()
    assert off.ready["dtm_http_port"] is None
    assert off.get("/health")[0] == 200


def test_the_settings() -> None:
    config = Config()
    assert config.dtm_http_port == 36789
    assert config.dtm.retry_interval is None
    given = load_settings(assignments=["dtm.retry_interval=50ms", "dtm_http_port=off"], read_default_file=False)
    assert given.config.dtm.retry_interval == 50
    assert given.config.dtm_http_port is None
    for wrong in (
        "dtm.alert_web_hook=ftp://x",
        "dtm.connections_per_host=0",
        "dtm.retry_interval=5",
        "dtm_http_port=x",
    ):
        with pytest.raises(ConfigError):
            load_settings(assignments=[wrong], read_default_file=False)
