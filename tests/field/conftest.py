"""The databases and the coordinator of tests/client/at/isolation, for the rows of docs/field.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PLACE = Path(__file__).parents[1] / "client" / "at" / "isolation" / "conftest.py"
_spec = importlib.util.spec_from_file_location("field_shop", _PLACE)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

tc, new_shop, shop = _module.tc, _module.new_shop, _module.shop
