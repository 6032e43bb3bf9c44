from datetime import timedelta

import pytest

from troth.client.settings import Address, ClientSettings, parse_addresses
from troth.client.transaction import timeout_in_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8091", [("127.0.0.1", 8091)]),
        ("tc", [("tc", 8091)]),
        ("a:1, b:2,", [("a", 1), ("b", 2)]),
        (["a:1", "b:2"], [("a", 1), ("b", 2)]),
        ("[::1]:9000", [("::1", 9000)]),
        ("[::1]", [("::1", 8091)]),
    ],
)
def test_addresses(text: str | list[str], expected: list[tuple[str, int]]) -> None:
    assert parse_addresses(text) == tuple(Address(host, port) for host, port in expected)


@pytest.mark.parametrize("text", ["", " , ", ":8091", "host:", "host:x", "host:0", "host:65536", "host:-1"])
def test_wrong_addresses_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port"):
        parse_addresses(text)


@pytest.mark.parametrize("name", ["tm_timeout_s", "reconnect_min_s", "phase_two_batch"])
def test_settings_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ClientSettings(**{name: 0})


def test_a_connection_is_not_dropped_before_its_first_ping() -> None:
    with pytest.raises(ValueError, match="idle_timeout_s"):
        ClientSettings(heartbeat_s=5, idle_timeout_s=5)


def test_intervals_go_down_to_50_ms() -> None:
    assert ClientSettings(heartbeat_s=0.05, idle_timeout_s=0.15, reconnect_min_s=0.05, retry_pause_s=0.05)


def test_timeout_in_ms() -> None:
    assert timeout_in_ms(timedelta(seconds=60)) == 60_000
    assert timeout_in_ms(timedelta(microseconds=1)) == 1
    for wrong in (timedelta(0), timedelta(seconds=-1), timedelta(days=25)):
        with pytest.raises(ValueError, match="timeout"):
            timeout_in_ms(wrong)
    with pytest.raises(TypeError, match="timedelta"):
        timeout_in_ms(60)  # type: ignore[arg-type]
