"""The wheel, in a clean environment, runs the demo too, and holds what it must."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".tools" / "bin" / "uv"

pytestmark = pytest.mark.engines


def run(*command: str | Path, cwd: Path, seconds: float = 240.0) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("troth-*.whl")
    return wheel


def test_the_wheel_holds_types_schema_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "troth/py.typed" in names
    assert "troth/stores/schema/sqlite/0001_first.sql" in names
    assert any(name.endswith("LICENSE") for name in names)
    assert any(name.endswith("NOTICE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bench"))]


def test_the_wheel_runs_the_demo_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    locked = re.sub(r" \\\n\s+--hash=\S+|\\\n", "", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(re.sub(r"\s+--hash=\S+", "", locked), encoding="utf-8")
    run(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, "-c", constraints, f"{wheel}[demo]", cwd=tmp_path)
    said = run(environment / "bin" / "troth", "demo", "--json", "--fail-at", "after-all", cwd=tmp_path)
    ended = json.loads(said.splitlines()[-1])
    assert ended["ok"] is True
    assert (ended["balance"], ended["stock"], ended["orders"], ended["undo_logs"]) == (999, 100, 0, 0)


def test_without_an_extra_a_command_says_which_one(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(UV, "venv", "--quiet", "--python", sys.executable, environment, cwd=tmp_path)
    run(UV, "pip", "install", "--quiet", "--python", environment / "bin" / "python", wheel, cwd=tmp_path)
    troth = environment / "bin" / "troth"
    assert "serve" in run(troth, "--help", cwd=tmp_path)
    for command, extra in (("serve", "troth[server]"), ("demo", "troth[demo]")):
        refused = subprocess.run([troth, command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2
        assert extra in refused.stderr
        assert "Traceback" not in refused.stderr
