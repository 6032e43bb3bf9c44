"""What is particular to the store in PostgreSQL: its lease, its one round trip, batches whose outcome is unknown."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from fixtures_relay import Relay, relay_to
from troth.core.effects import AddBranch, EndGlobal, MarkGlobal, OpenGlobal, Write
from troth.core.model import BranchType, Cause, LockMode, Phase, Terms
from troth.stores.lease import LeaseTerms
from troth.stores.migrations import Migration, load_migrations
from troth.stores.postgres import PostgresStore
from troth.stores.postgres_schema import migrate
from troth.stores.store import (
    Batch,
    LeaseLost,
    StoreCorrupt,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnreachable,
)

pytestmark = pytest.mark.engines

LONG = LeaseTerms("the first", 30.0)
SHORT = LeaseTerms("the first", 0.5)
NEXT = LeaseTerms("the second", 30.0)


@pytest.fixture(scope="module")
def database(new_postgres_database: Callable[[], str]) -> str:
    return new_postgres_database()


@pytest.fixture
async def url(database: str) -> str:
    """A database in which no coordinator has ever been."""
    await execute(database, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS troth CASCADE")
    return database


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    parts = urlsplit(url)
    with relay_to((str(parts.hostname), int(parts.port or 0))) as relay:
        yield relay


def through(relay: Relay, url: str) -> str:
    """`url` by way of `relay`."""
    return url.replace(f":{urlsplit(url).port}/", f":{relay.port}/")


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def value(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.01)


def batch(number: int, *writes: Write) -> Batch:
    return Batch(number=number, last_id=number, writes=writes)


def opened(xid: str) -> OpenGlobal:
    return OpenGlobal(xid=xid, name="n", application="a", group="g", begin_ms=1, timeout_ms=1)


def branch(xid: str, branch_id: int) -> AddBranch:
    return AddBranch(xid, branch_id, branch_id, BranchType.AT, "r", f"t:{branch_id}", None, False, "c")


async def leader(url: str, terms: LeaseTerms = LONG) -> PostgresStore:
    store = PostgresStore(url, terms)
    await store.open()
    return store


async def open_xids(store: PostgresStore) -> list[str]:
    return sorted(tx.xid for tx in (await store.load_hot()).transactions)


async def last_batch(url: str) -> object:
    return await value(url, "SELECT last_batch FROM troth.cell")


# ---- the lease ----


async def test_of_many_candidates_one_leads(url: str) -> None:
    stores = [PostgresStore(url, LeaseTerms(f"candidate {number}", 30.0)) for number in range(5)]
    results = await asyncio.gather(*(store.open() for store in stores), return_exceptions=True)
    winners = [store for store, result in zip(stores, results, strict=True) if result is None]
    assert len(winners) == 1
    losses = [result for result in results if result is not None]
    assert {type(loss) for loss in losses} == {StoreInUse}
    assert all("is led by candidate" in str(loss) for loss in losses)
    await winners[0].close()


async def test_a_lease_that_is_given_up_is_free_at_once_and_epochs_count_up(url: str) -> None:
    for epoch in (1, 2, 3):
        store = await leader(url)
        assert store.tenure is not None
        assert store.tenure.epoch == epoch
        await store.close()


async def test_nobody_takes_over_before_the_lease_ends_and_renewing_puts_that_off(url: str) -> None:
    first, second = await leader(url), PostgresStore(url, NEXT)
    ends = "SELECT lease_until FROM troth.cell"
    end = await value(url, ends)
    await first.renew()
    assert await value(url, ends) > end  # type: ignore[operator]
    incumbent = await second.try_lead()
    assert incumbent is not None
    assert incumbent.holder == "the first"
    assert 0 < incumbent.left_s <= LONG.ttl_s
    await execute(url, "UPDATE troth.cell SET lease_until = clock_timestamp() + interval '300 ms'")

    async def takes_over() -> bool:
        return await second.try_lead() is None

    await until(takes_over)
    with pytest.raises(LeaseLost, match="led by another"):
        await first.renew()
    with pytest.raises(LeaseLost):
        await first.append(batch(1, opened("late")))
    await second.open()
    assert await open_xids(second) == []
    await first.close()
    third = PostgresStore(url, LONG)
    assert await third.try_lead() is not None, "whoever has lost the lease must not give up that of another"
    await third.close()
    await second.close()


async def test_a_deposed_leader_writes_and_forgets_nothing(url: str) -> None:
    first = await leader(url)
    await first.append(batch(1, opened("a")))
    await execute(url, "UPDATE troth.cell SET lease_until = '-infinity'")
    second = await leader(url, NEXT)
    assert await open_xids(second) == ["a"]
    with pytest.raises(LeaseLost, match="epoch 2 leads"):
        await first.append(batch(2, opened("b")))
    with pytest.raises(LeaseLost):
        await first.load_hot()
    await second.append(batch(2, opened("c")))
    assert await open_xids(second) == ["a", "c"]
    await first.close()
    await second.close()


async def test_a_take_over_waits_for_the_batch_that_is_under_way(url: str) -> None:
    """The batch has its epoch checked, and its commit is still to come: whoever leads next must see it."""
    first = await leader(url)
    await first.append(batch(1, opened("a")))
    await execute(url, "UPDATE troth.cell SET lease_until = '-infinity'")
    writing = await asyncpg.connect(url)
    transaction = writing.transaction()
    await transaction.start()
    await writing.execute("UPDATE troth.cell SET last_batch = 2 WHERE id = 'default' AND epoch = 1")
    second = PostgresStore(url, NEXT)
    taking = asyncio.ensure_future(second.open())
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%epoch + 1%'"

    async def waits() -> bool:
        return await value(url, waiting) == 1

    await until(waits)
    assert not taking.done()
    await transaction.commit()
    await taking
    assert (await second.load_hot()).last_batch == 2
    await writing.close()
    await first.close()
    await second.close()


# ---- round trips ----


async def test_a_batch_is_one_round_trip(url: str, relay: Relay) -> None:
    store = await leader(through(relay, url))
    await store.append(batch(1, opened("0"), branch("0", 1)))  # connects and prepares
    before = relay.turns
    for number in range(2, 12):
        await store.append(batch(number, opened(str(number)), branch(str(number), 1), branch("0", number)))
    assert relay.turns - before == 10
    await store.close()


async def test_no_batch_reads_the_index_of_what_is_open_from_end_to_end(url: str) -> None:
    """It once did, as soon as the statistics said that few are open: each batch cost as much as all that is open."""
    index = "schemaname = 'troth' AND indexrelname = 'global_transaction_{}'"
    uses = f"SELECT idx_scan FROM pg_stat_user_indexes WHERE {index}"
    store = await leader(url)
    for number in range(1, 16):
        xids = [f"{number}.{part}" for part in range(20)]
        marks = [MarkGlobal(xid, Phase.COMMITTING, Cause.ASKED, False) for xid in xids]
        ends = [EndGlobal(f"{number - 1}.{part}", Phase.COMMITTED, Cause.ASKED, 1) for part in range(20 * (number > 1))]
        await store.append(batch(number, *map(opened, xids), *(branch(xid, 1) for xid in xids), *marks, *ends))
    await store.close()

    async def are_counted() -> bool:
        return int(str(await value(url, uses.format("pkey")))) >= 600

    await until(are_counted)  # a server process reports its counts when it ends
    assert await value(url, uses.format("hot")) == 0


# ---- outcomes that are not known ----


@pytest.mark.parametrize("lost", ["the batch", "the answer"])
async def test_a_batch_whose_outcome_is_unknown_is_there_once(url: str, relay: Relay, lost: str) -> None:
    store = await leader(through(relay, url))
    await store.append(batch(1, opened("a")))
    relay.hold(requests=lost == "the batch", answers=lost == "the answer")
    writing = asyncio.ensure_future(store.append(batch(2, opened("b"), branch("a", 7))))

    async def is_held() -> bool:
        return relay.held_bytes > 0

    await until(is_held)
    assert await last_batch(url) == (1 if lost == "the batch" else 2)
    assert not writing.done()
    relay.cut()
    await writing
    await store.append(batch(3, branch("b", 8)))
    hot = {tx.xid: list(tx.branches) for tx in (await store.load_hot()).transactions}
    assert hot == {"a": [7], "b": [8]}
    await store.close()


async def test_a_batch_that_was_sent_again_and_arrives_late_changes_nothing(url: str, relay: Relay) -> None:
    store = await leader(through(relay, url))
    await store.append(batch(1, opened("a")))
    relay.hold(requests=True)
    held = relay.lines()
    writing = asyncio.ensure_future(store.append(batch(2, branch("a", 7))))

    async def is_held() -> bool:
        return relay.held_bytes > 0

    await until(is_held)
    relay.hang_up_on_clients()
    await writing
    await store.append(batch(3, branch("a", 8)))
    for line in held:
        line.open_gates()

    async def have_run() -> bool:
        return all(line.ended for line in held)  # a server hangs up when it has done what it was asked

    await until(have_run)
    assert await last_batch(url) == 3
    await store.append(batch(4, opened("b")))
    assert {tx.xid: list(tx.branches) for tx in (await store.load_hot()).transactions} == {"a": [7, 8], "b": []}
    await store.close()


async def test_a_batch_that_arrives_after_the_take_over_is_not_written(url: str, relay: Relay) -> None:
    first = await leader(through(relay, url), SHORT)
    await first.append(batch(1, opened("a")))
    relay.hold(requests=True)
    writing = asyncio.ensure_future(first.append(batch(2, opened("late"))))
    second = PostgresStore(url, NEXT)
    await second.stand_by()

    async def takes_over() -> bool:
        return await second.try_lead() is None

    await until(takes_over)
    relay.release()
    with pytest.raises(LeaseLost):
        await writing
    await second.open()
    assert await open_xids(second) == ["a"]
    await second.append(batch(2, opened("b")))
    await first.close()
    await second.close()


async def test_an_outcome_that_is_not_known_within_the_lease_ends_it(url: str, relay: Relay) -> None:
    store = await leader(through(relay, url), SHORT)
    await store.append(batch(1, opened("a")))
    relay.partition()
    with pytest.raises(LeaseLost, match="whether batch 2 is written was not known in time"):
        await store.append(batch(2, opened("b")))
    with pytest.raises(LeaseLost):
        await store.append(batch(2, opened("b")))
    with pytest.raises(LeaseLost):
        await store.outcome("a")
    relay.heal()
    await store.close()
    again = await leader(through(relay, url))
    assert await open_xids(again) == ["a"]
    await again.close()


async def test_a_server_that_ends_every_connection_is_no_reason_to_stop(url: str) -> None:
    """Its last words reach an idle connection, and asyncpg calls what follows an internal error of its own."""
    end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'troth coordinator'"
    store, standby = await leader(url), PostgresStore(url, NEXT)
    administrator = await asyncpg.connect(url)
    for number in range(1, 21):
        await administrator.fetch(end_all)
        await store.append(batch(number, opened(str(number))))
        await store._persist(store.renew)
        with contextlib.suppress(StoreUnreachable):  # whoever stands by tries again later
            assert await standby.try_lead() is not None
    await administrator.close()
    assert len(await open_xids(store)) == 20
    await store.close()
    await standby.close()


async def test_a_server_that_has_lost_commits_is_noticed(url: str, relay: Relay) -> None:
    """A replica that was promoted too early: what was promised is gone, and nobody goes on as if it were not."""
    store = await leader(through(relay, url))
    for number in (1, 2, 3):
        await store.append(batch(number, opened(str(number))))
    await execute(url, "UPDATE troth.cell SET last_batch = 1")
    relay.cut()
    with pytest.raises(StoreCorrupt, match="gone back to batch 1"):
        await store.append(batch(4, opened("4")))
    await store.close()


# ---- what is refused ----


@pytest.mark.parametrize("setting", ["synchronous_commit", "default_transaction_read_only"])
async def test_a_server_that_would_not_keep_what_it_says_is_refused(url: str, setting: str) -> None:
    name = urlsplit(url).path[1:]
    await execute(url, f"ALTER DATABASE {name} SET {setting} = {'off' if setting == 'synchronous_commit' else 'on'}")
    try:
        with pytest.raises(StoreUnreachable, match=r"synchronous_commit = off|read-only") as refused:
            await leader(url)
        assert str(urlsplit(url).password) not in str(refused.value)
    finally:
        await execute(url.replace(f"/{name}", "/postgres"), f"ALTER DATABASE {name} RESET {setting}")


async def test_wrong_addresses_say_what_to_do_and_no_secret(url: str, relay: Relay) -> None:
    parts = urlsplit(url)
    relay.partitioned = True
    wrong = {
        "check user, password": url.replace(str(parts.password), "not-the-secret"),
        "createdb": url.replace(parts.path, "/no_such_database"),
        "is the server running": f"postgresql://u:not-the-secret@127.0.0.1:{relay.port}/x",
        "percent-encoded": "postgresql://u:not-the-secret/2@h:5432/x",
    }
    for hint, address in wrong.items():
        with pytest.raises(StoreError, match=hint) as refused:
            await leader(address)
        assert "not-the-secret" not in str(refused.value)
        assert str(parts.password) not in str(refused.value)


async def test_a_schema_of_somebody_else_or_of_a_newer_troth_is_left_alone(url: str) -> None:
    await execute(url, "CREATE SCHEMA troth; CREATE TABLE troth.cell (theirs text)")
    with pytest.raises(StoreCorrupt, match="no store of ours"):
        await leader(url)
    await execute(url, "DROP SCHEMA troth CASCADE")
    await (await leader(url)).close()
    await execute(url, "UPDATE troth.schema_version SET version = 99")
    with pytest.raises(StoreTooNew, match="schema 99"):
        await leader(url)


@pytest.mark.parametrize("version", [1, 2])
async def test_an_older_store_is_migrated_with_what_is_open_in_it(url: str, version: int) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection, "old", load_migrations("postgres")[:version])
    await connection.execute(
        "INSERT INTO troth.global_transaction VALUES"
        " ('a', 'n', 'a', 'g', 1, 2, 'rolling-back', 'asked', false, NULL), ('b', 'n', 'a', 'g', 1, 2, 'committed',"
        " 'asked', false, 3), ('c', 'n', 'a', 'g', 1, 2, 'open', NULL, true, NULL);"
        "INSERT INTO troth.branch (xid, branch_id, seq, branch_type, resource_id, lock_text, auto_commit, client_id,"
        " attempts, next_due_ms) VALUES ('a', 1, 1, 0, 'r', 't:1', false, 'x', 3, 9);"
        "UPDATE troth.cell SET last_batch = 4, last_id = 7"
    )
    await connection.close()
    store = await leader(url)
    hot = await store.load_hot()
    assert (hot.last_batch, hot.last_id) == (4, 7)
    found = {tx.xid: tx for tx in hot.transactions}
    assert (found["a"].phase, found["c"].phase, found["c"].rollback_only) == (Phase.ROLLING_BACK, Phase.OPEN, True)
    (old,) = found["a"].branches.values()
    assert (old.lock_text, old.attempts, old.next_due_ms, old.client_id) == ("t:1", 3, 9, "x")
    assert (old.lock_mode, old.plan, old.left, old.epoch) == (LockMode.EXCLUSIVE, None, False, 0)
    assert (found["a"].terms, found["a"].course) == (None, None)
    outcome = await store.outcome("b")
    assert outcome is not None
    assert (outcome.phase, outcome.terms, outcome.branches) == (Phase.COMMITTED, None, ())
    named = OpenGlobal("d", "n", "a", "g", 1, 1, Terms("order 7", "saga", b""))
    await store.append(batch(5, EndGlobal("a", Phase.ROLLED_BACK, Cause.ASKED, 9), branch("c", 2), named))
    assert await open_xids(store) == ["c", "d"]
    assert await store.find_gid("order 7") == "d"
    await store.close()


async def test_a_newer_version_migrates_only_what_it_leads(url: str) -> None:
    """A standby of the next version must not change the tables of the leader before it leads itself."""
    known = load_migrations("postgres")
    newer = (*known, Migration(len(known) + 1, "ALTER TABLE troth.cell ADD COLUMN added text"))
    first = await leader(url)
    second = PostgresStore(url, NEXT, migrations=newer)
    await second.stand_by()
    with pytest.raises(StoreInUse):
        await second.open()
    assert await value(url, "SELECT version FROM troth.schema_version") == len(known)
    await first.append(batch(1, opened("a")))
    await first.close()
    await second.open()
    assert await value(url, "SELECT version FROM troth.schema_version") == len(newer)
    assert await open_xids(second) == ["a"]
    await second.close()
