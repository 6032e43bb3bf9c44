"""Databases by their URLs, past AT: plain connections of each driver, and SQL as each of them spells it."""

from __future__ import annotations

import importlib
import sqlite3
from typing import Any
from urllib.parse import unquote, urlsplit


def connect(url: str) -> Any:
    """A connection on which every statement commits by itself. Raises ImportError where the driver is missing."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    if parts.scheme == "postgresql":
        return importlib.import_module("psycopg").connect(url, autocommit=True)
    return importlib.import_module("pymysql").connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/"),
        ssl_disabled=True,
        autocommit=True,
    )


def spelled(url: str, sql: str) -> str:
    """`sql` with its `?` as the driver wants placeholders."""
    return sql if url.startswith("sqlite:") else sql.replace("?", "%s")
