"""Which URL opens which store."""

from __future__ import annotations

import pytest

from troth.stores.memory import MemoryStore
from troth.stores.sqlite import SqliteStore
from troth.stores.store import StoreError
from troth.stores.urls import open_store


@pytest.mark.parametrize(
    ("url", "kind", "durable"),
    [
        ("memory://", MemoryStore, False),
        ("sqlite:///troth.db", SqliteStore, True),
        ("sqlite:///./some dir/troth.db", SqliteStore, True),
        ("sqlite:////var/lib/troth/troth.db", SqliteStore, True),
    ],
)
def test_a_known_url_names_its_store(url: str, kind: type, durable: bool) -> None:
    store = open_store(url)
    assert isinstance(store, kind)
    assert store.url == url
    assert store.durable is durable


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "known are memory://"),
        ("troth.db", "known are memory://"),
        ("oracle://u:secret@h/db", "no store is known for 'oracle'"),
        ("sqlite://", "use memory://"),
        ("sqlite:///", "use memory://"),
        ("sqlite:///:memory:", "use memory://"),
        ("sqlite://troth.db", "sqlite:///relative"),
        ("sqlite:///troth.db?mode=ro", "options are not taken .*'sqlite:///troth.db'"),
        ("sqlite:///troth.db#x", "options are not taken"),
        ("memory://somewhere", "no name or options"),
    ],
)
def test_any_other_url_is_refused_with_a_hint(url: str, hint: str) -> None:
    with pytest.raises(StoreError, match=hint) as refused:
        open_store(url)
    assert "secret" not in str(refused.value)
