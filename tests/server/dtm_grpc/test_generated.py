"""The generated messages are those of `proto/`."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "src" / "troth" / "wire" / "dtm" / "pb"


def test_make_proto_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts" / "proto", tmp_path], check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in GENERATED.glob("*_pb2.py*") if path.suffix in (".py", ".pyi")}
    assert made == kept, "run `make proto`"
