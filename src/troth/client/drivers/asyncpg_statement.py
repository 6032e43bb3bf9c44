"""`asyncpg.prepared_stmt.PreparedStatement` under AT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class PreparedStatement:
    """A prepared statement; inside a global transaction its text is what runs. What is not here is asyncpg's own."""

    def __init__(self, connection: Any, raw: Any, record_class: Any) -> None:
        self._connection = connection
        self._raw = raw
        self._record_class = record_class
        self._status: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    async def _run(self, sets: Iterable[Sequence[Any]], timeout: float | None) -> list[Any] | None:
        """The records, if AT has run it. Call it within `at_turn`."""
        self._status = None
        if not self._connection.at.concerns:
            return None
        query = self._raw.get_query()
        done = await self._connection.at_run(query, sets, timeout=timeout, record_class=self._record_class)
        if done is None:
            return None
        self._status = done[0]
        records: list[Any] = done[1]
        return records

    async def fetch(self, *args: Any, timeout: float | None = None) -> list[Any]:
        """`PreparedStatement.fetch`."""
        async with self._connection.at_turn():
            done = await self._run([args], timeout)
            return list(await self._raw.fetch(*args, timeout=timeout)) if done is None else done

    async def fetchval(self, *args: Any, column: int = 0, timeout: float | None = None) -> Any:
        """`PreparedStatement.fetchval`."""
        async with self._connection.at_turn():
            done = await self._run([args], timeout)
            if done is None:
                return await self._raw.fetchval(*args, column=column, timeout=timeout)
            return done[0][column] if done else None

    async def fetchrow(self, *args: Any, timeout: float | None = None) -> Any:
        """`PreparedStatement.fetchrow`."""
        async with self._connection.at_turn():
            done = await self._run([args], timeout)
            return await self._raw.fetchrow(*args, timeout=timeout) if done is None else next(iter(done), None)

    async def fetchmany(self, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> list[Any]:
        """`PreparedStatement.fetchmany`; inside a global transaction for reading only."""
        await self._connection.at_learn(self._raw.get_query())
        self._connection.at_check_read(self._raw.get_query(), "fetchmany()")
        async with self._connection.at_turn():
            self._status = None
            return list(await self._raw.fetchmany(args, timeout=timeout))

    async def executemany(self, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """`PreparedStatement.executemany`; inside a global transaction it is one local transaction."""
        given = list(args)
        async with self._connection.at_turn():
            if await self._run(given, timeout) is None:
                await self._raw.executemany(given, timeout=timeout)

    async def explain(self, *args: Any, analyze: bool = False) -> Any:
        """`PreparedStatement.explain`; inside a global transaction with `analyze` for reading only."""
        if analyze:
            await self._connection.at_learn(self._raw.get_query())
            self._connection.at_check_read(self._raw.get_query(), "EXPLAIN ANALYZE")
        async with self._connection.at_turn():
            return await self._raw.explain(*args, analyze=analyze)

    def cursor(self, *args: Any, **options: Any) -> Any:
        """`PreparedStatement.cursor`; inside a global transaction for reading only."""
        self._connection.at_check_read(self._raw.get_query(), "a cursor")
        return self._raw.cursor(*args, **options)

    def get_statusmsg(self) -> str | None:
        """The command tag of the last run."""
        return self._raw.get_statusmsg() if self._status is None else self._status
