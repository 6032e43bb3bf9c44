"""`troth`: what it offers, and what it says when a library is missing."""

import os
import subprocess
import sys

import pytest

import troth.cli.main
from troth.cli.tables import table

COMMANDS = (
    *("serve", "demo", "ls", "inspect", "retry", "resolve", "audit", "config"),
    *("at", "tcc", "dtm", "xa", "saga", "lint", "undo", "wire"),
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TROTH_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=clean)


def test_every_command_is_known() -> None:
    assert tuple(troth.cli.main.Commands.entries) == COMMANDS


def test_tables_are_aligned_and_harmless() -> None:
    assert table(("A", "B"), [("x", "1"), ("long\x1b[2J", "é")]) == "\n".join(
        ["A            B", "x            1", "long\\x1b[2J  é"]
    )


@pytest.mark.engines
def test_help_and_version() -> None:
    shown = run_python("from troth.cli.main import app; app(['--help'])")
    assert shown.returncode == 0
    for command in COMMANDS:
        assert f"\n  {command} " in shown.stdout
    version = run_python("from troth.cli.main import app; app(['--version'])")
    assert version.stdout.startswith("troth ")
    assert run_python("from troth.cli.main import app; app(['no-such-command'])").returncode == 2


@pytest.mark.engines
@pytest.mark.parametrize("missing", ["structlog", "starlette", "uvicorn", "prometheus_client"])
def test_a_missing_extra_is_named(missing: str) -> None:
    result = run_python(
        f"import sys; sys.modules['{missing}'] = None\n"
        "from troth.cli.main import app; app(['serve', '--port', '0', '--admin-port', '0'])"
    )
    assert result.returncode == 2
    assert "pip install 'troth[server]'" in result.stderr


@pytest.mark.engines
def test_light_commands_import_no_server() -> None:
    code = "import sys, troth.cli.transactions; print([m for m in sys.modules if m.startswith('troth.server')])"
    assert run_python(code).stdout == "[]\n"


@pytest.mark.engines
def test_config_prints_every_key_and_its_source() -> None:
    shown = run_python("from troth.cli.main import app; app(['config', '--set', 'retry.min=50ms', '--port', 'off'])")
    assert shown.returncode == 0, shown.stderr
    lines = {line.split()[0]: line.split() for line in shown.stdout.splitlines()}
    assert lines["retry.min"][1:4] == ["50ms", "--set", "retry.min"]
    assert lines["port"][1:3] == ["off", "--port"]
    assert lines["timeout.default"][1:3] == ["1m", "default"]
