"""Settings: their layers, how they are written, and what is said when one is wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.server.config import Config, is_loopback, split_address
from troth.server.sources import ConfigError, known_keys, load_settings
from troth.server.units import format_duration_ms, format_size_bytes, parse_duration_ms, parse_size_bytes


@given(st.integers(1, 36_500 * 86_400_000))
def test_durations_are_read_as_they_are_written(milliseconds: int) -> None:
    assert parse_duration_ms(format_duration_ms(milliseconds)) == milliseconds


@given(st.integers(1, 1024**4))
def test_sizes_are_read_as_they_are_written(size: int) -> None:
    assert parse_size_bytes(format_size_bytes(size)) == size


@pytest.mark.parametrize(
    "text", ["50", 50, "50 ms", "-1s", "0s", "1.5ms", "1w", "", None, "s", "1e3s", "٣s", "9999999d"]
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        parse_duration_ms(text)


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    keys = ("default", "file", "environment", "flag", "set")
    (tmp_path / "troth.toml").write_text(
        '[limits]\nidle = "2s"\nresources = 2\nin_flight = 2\nname_bytes = "2KiB"\n', encoding="utf-8"
    )
    settings = load_settings(
        directory=tmp_path,
        environment={
            "TROTH_LIMITS__RESOURCES": "3",
            "TROTH_LIMITS__IN_FLIGHT": "3",
            "TROTH_LIMITS__NAME_BYTES": "3KiB",
        },
        flags={"limits.in_flight": "4", "limits.name_bytes": "4KiB", "store": None},
        assignments=["limits.name_bytes=5KiB"],
    )
    limits = settings.config.limits
    assert limits.unregistered_timeout == 15_000, keys
    assert (limits.idle, limits.resources, limits.in_flight, limits.name_bytes) == (2000, 3, 4, 5 * 1024)
    sources = {row.key: row.source for row in settings.rows()}
    assert sources["limits.idle"] == str(tmp_path / "troth.toml")
    assert sources["limits.resources"] == "TROTH_LIMITS__RESOURCES"
    assert sources["limits.in_flight"] == "--limits.in-flight"
    assert sources["limits.name_bytes"] == "--set limits.name_bytes"
    assert sources["store"] == "default"


def test_every_key_has_a_meaning_and_its_default_can_be_written_back() -> None:
    settings = load_settings()
    for row in settings.rows():
        assert row.description, row.key
        assert row.source == "default"
        if row.value != "unset":
            assert load_settings(assignments=[f"{row.key}={row.value}"]).config == settings.config
    assert [row.key for row in settings.rows()] == list(known_keys())


WRONG = {
    "retry.mim=1s": "--set retry.mim: unknown setting 'retry.mim'; the nearest known one is 'retry.min'",
    "retry.min=50": "--set retry.min: retry.min = '50': expected a duration with its unit, such as 50ms, 2s",
    "port=70000": "--set port: port = '70000': expected a port from 1 to 65535, 0 for any free one, or off",
    "log.level=loud": "--set log.level: log.level = 'loud': expected 'debug', 'info', 'warning' or 'error'",
    "limits.connections=0": "expected a whole number greater than 0",
    "limits.unregistered_bytes=256": "expected a size with its unit",
    "allow_anonymous=maybe": "expected true or false",
    "store=": "expected a text that is not empty",
    "advertise=" + "é" * 20 + ":1": "expected a host of at most 38 bytes",
    "advertise=host:0": "expected HOST or HOST:PORT with a port from 1 to 65535",
    "host=0.0.0.0": "--allow-anonymous",
    "admin_host=10.0.0.1": "--allow-anonymous",
    "retry=1s": "unknown setting 'retry'",
    "no-equals-sign": "expected KEY=VALUE",
}


@pytest.mark.parametrize("assignment", WRONG)
def test_what_is_wrong_is_said(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(assignments=[assignment])
    assert WRONG[assignment] in str(caught.value)


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('stoer = "memory://"\n[retry]\nmni = "1s"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(file=tmp_path / "x.toml")
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/x.toml: unknown setting 'stoer'; the nearest known one is 'store'",
        f"{tmp_path}/x.toml: unknown setting 'retry.mni'; the nearest known one is 'retry.min'",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(file=tmp_path / "absent.toml")
    (tmp_path / "troth.toml").write_text("port = = 1", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_settings(directory=tmp_path)
    assert load_settings(directory=tmp_path, read_default_file=False).config.port == 8091


def test_a_default_gives_way_to_a_bound_below_it() -> None:
    config = load_settings(assignments=["retry.max=200ms", "timeout.max=5s"]).config
    assert (config.retry.min, config.timeout.default) == (200, 5000)
    with pytest.raises(ConfigError, match=r"retry\.max must not be shorter"):
        load_settings(assignments=["retry.max=200ms", "retry.min=300ms"])


def test_what_kubernetes_sets_for_a_service_called_troth_is_not_ours() -> None:
    environment = {
        "TROTH_PORT": "tcp://10.96.0.7:8091",
        "TROTH_SERVICE_HOST": "10.96.0.7",
        "TROTH_SERVICE_PORT_SEATA": "8091",
        "TROTH_PORT_8091_TCP_ADDR": "10.96.0.7",
        "TROTH_ADMIN": "http://elsewhere:7091",
        "OTHER": "x",
    }
    assert load_settings(environment=environment).sources == {}
    assert load_settings(environment={"TROTH_PORT": "9000"}).config.port == 9000


def test_a_door_beyond_this_machine_needs_a_word() -> None:
    config = load_settings(assignments=["host=0.0.0.0", "allow_anonymous=yes"]).config
    assert config.admin_address == "0.0.0.0"
    assert load_settings(assignments=["port=off"]).config.port is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("troth.example:8091", ("troth.example", 8091)),
        ("troth.example", ("troth.example", None)),
        ("[::1]:8091", ("[::1]", 8091)),
        ("[::1]", ("[::1]", None)),
        ("::1", ("::1", None)),
    ],
)
def test_addresses_are_split(text: str, parts: tuple[str, int | None]) -> None:
    assert split_address(text) == parts


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example", "localhost.example"))


@pytest.mark.parametrize("name", ["TROTH_RETRY_MIN", "TROTH_RETRY__MINIMUM", "TROTH_STORES"])
def test_a_variable_that_looks_like_a_setting_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_settings(environment={name: "50ms"})


def test_a_variable_that_looks_like_none_is_somebody_elses() -> None:
    assert load_settings(environment={"TROTH_BIN": "/usr/bin/troth", "TROTH_HOME": "/"}).config == Config()
