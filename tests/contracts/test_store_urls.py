"""Which URL opens which store."""

from __future__ import annotations

import pytest

from troth.server.sources import load_settings
from troth.stores.memory import MemoryStore
from troth.stores.secrets import without_secrets
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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgresql://u:secret@h1:1,h2:2/db?sslpassword=secret", "postgresql://u@h1:1,h2:2/db"),
        ("postgresql://:secret@[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?host=/run&password=secret", "postgresql:///db"),
        # what stands where cannot be told: the password was not percent-encoded
        ("postgresql://u:secret/x@h/db", "postgresql://…"),
        ("postgresql://u:secret?x@h/db", "postgresql://…"),
        ("postgresql://u:secret#x@h/db", "postgresql://…"),
        ("postgresql://u:secret@secret@h/db", "postgresql://…"),
        ("postgresql://u:secret", "postgresql://…"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("memory://", "memory://"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    if url.startswith("postgresql"):
        assert open_store(url).url == shown
        settings = load_settings(environment={"TROTH_STORE": url}, read_default_file=False)
        assert "secret" not in str(settings.rows())
