"""Django's ORM on the backends of `troth.integrations.django`: one real project for each database, in one process."""

# ruff: noqa: PT012, SIM117 - the point of most blocks is what was done before they fail

from __future__ import annotations

import asyncio
import importlib

import django
import pytest
import sqlalchemy as sa
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, connections, models, transaction
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

import troth
from troth.client.errors import LockConflict, NotSupported
from troth.integrations.django.middleware import troth_middleware
from troth.integrations.django.postgresql.base import DatabaseWrapper as PostgresWrapper

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("troth_client")]

KINDS = ["sqlite", "postgresql", "mysql"]
ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}


class Undo(Exception):
    """Ends a global transaction without a commit."""


def settings_of(url: str) -> dict[str, object]:
    place = sa.make_url(url)
    return {
        "ENGINE": f"troth.integrations.django.{ENGINES[place.get_backend_name()]}",
        "NAME": place.database,
        "USER": place.username or "",
        "PASSWORD": place.password or "",
        "HOST": place.host or "",
        "PORT": place.port or "",
    }


@pytest.fixture(scope="module")
def databases(new_database):
    made = {kind: new_database(kind) for kind in KINDS}
    settings.configure(
        DATABASES={"default": {}, **{kind: settings_of(one.url) for kind, one in made.items()}},
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        SECRET_KEY="for tests only",
    )
    django.setup()
    yield made
    connections.close_all()


@pytest.fixture(scope="module")
def tables(databases):
    class Account(models.Model):
        name = models.CharField(max_length=40, null=True, unique=True)
        balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
        seen = models.DateTimeField(null=True)
        notes = models.JSONField(default=dict)

        class Meta:
            app_label = "shop"

    class Purchase(models.Model):
        account = models.ForeignKey(Account, on_delete=models.CASCADE, null=True)
        amount = models.IntegerField()

        class Meta:
            app_label = "shop"

    for kind in KINDS:
        with connections[kind].schema_editor() as editor:
            editor.create_model(Account)
            editor.create_model(Purchase)
    return Account, Purchase


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def database(databases, tables, kind):
    account, purchase = tables
    purchase.objects.using(kind).all().delete()
    account.objects.using(kind).all().delete()
    rows = [account(id=n, name=name, balance=balance) for n, name, balance in ((1001, "ann", 100), (1002, "bob", 50))]
    account.objects.using(kind).bulk_create(rows)
    purchase.objects.using(kind).create(id=1001, account_id=1002, amount=3)
    return databases[kind]


def change(kind, account, purchase) -> None:
    """What an ORM does, in one `atomic`."""
    with transaction.atomic(using=kind):
        ann = account.objects.using(kind).select_for_update().get(name="ann")
        ann.balance -= 60
        ann.notes = {"a": [1, None, "ü"]}
        ann.save()
        made = account.objects.using(kind).create(name="cem", balance=7)
        purchase.objects.using(kind).create(account=made, amount=1)
        account.objects.using(kind).bulk_create([account(name=f"n{n}", balance=n) for n in range(3)])
        account.objects.using(kind).filter(name__startswith="n").update(balance=models.F("balance") + 1)
        many = list(account.objects.using(kind).filter(name__startswith="n"))
        for one in many:
            one.balance += 10
        account.objects.using(kind).bulk_update(many, ["balance"])
        with pytest.raises(IntegrityError):
            with transaction.atomic(using=kind):
                account.objects.using(kind).create(name="bob")
        with pytest.raises(Undo):
            with transaction.atomic(using=kind):
                purchase.objects.using(kind).all().delete()
                raise Undo
        purchase.objects.using(kind).filter(account__name="bob").delete()
        account.objects.using(kind).get(name="bob").delete()
        account.objects.using(kind).update_or_create(name="n0", defaults={"balance": 5})


AFTER = [("ann", 40), ("cem", 7), ("n0", 5), ("n1", 12), ("n2", 13)]


def balances(database):
    return database.rows("SELECT name, balance FROM shop_account ORDER BY name")


def test_committed(database, tables, kind):
    with troth.transaction(name="buy"):
        change(kind, *tables)
        assert database.undo_rows() == 1
    assert balances(database) == AFTER
    assert database.rows("SELECT amount FROM shop_purchase") == [(1,)]
    database.wait_until_settled()


def test_rolled_back_by_the_global(database, tables, kind):
    before = database.dump()
    with pytest.raises(Undo):
        with troth.transaction(name="buy"):
            connections[kind].close()  # so that it is opened anew in here, with all that Django sets up then
            change(kind, *tables)
            tables[0].objects.using(kind).filter(name="n1").delete()  # in autocommit: a branch of its own
            assert database.undo_rows() >= 2
            raise Undo
    assert database.dump() == before


def test_outside_of_a_global_transaction(database, tables, kind):
    change(kind, *tables)
    assert database.undo_rows() == 0
    assert balances(database) == AFTER


def test_a_row_of_another_global_transaction(database, tables, kind):
    accounts = tables[0].objects.using(kind)
    with troth.transaction(name="first"):
        accounts.filter(name="ann").update(balance=1)
        with troth.join(None), troth.transaction(name="second"):
            with pytest.raises(LockConflict):
                accounts.filter(name="ann").update(balance=2)
            with pytest.raises(LockConflict):
                with transaction.atomic(using=kind):
                    accounts.filter(name="ann").update(balance=2)
            accounts.filter(name="bob").update(balance=2)
    assert balances(database) == [("ann", 1), ("bob", 2)]


def test_raw_sql_and_a_refusal(database, tables, kind):
    before = database.dump()
    with pytest.raises(Undo):
        with troth.transaction(name="buy"):
            with connections[kind].cursor() as cursor:
                cursor.execute("UPDATE shop_account SET balance = %s WHERE name LIKE 'a%%'", [9])
                assert cursor.rowcount == 1
                cursor.executemany("UPDATE shop_account SET balance = %s WHERE name = %s", [(1, "ann"), (2, "bob")])
                cursor.execute("SELECT name FROM shop_account WHERE balance = %s", [2])
                assert list(cursor) == [("bob",)]
                with pytest.raises(NotSupported):
                    cursor.execute("ALTER TABLE shop_account ADD COLUMN more INTEGER")
            rows = tables[0].objects.using(kind).order_by("name").iterator(chunk_size=1)
            assert [row.name for row in rows] == ["ann", "bob"]
            raise Undo
    assert database.dump() == before


def test_settings_that_would_pass_by_at(databases):
    given = settings_of(databases["postgresql"].url)
    for options in ({"pool": True}, {"server_side_binding": False}):
        with pytest.raises(ImproperlyConfigured):
            PostgresWrapper({**given, "OPTIONS": options})


def test_mysqlclient_and_pymysql_do_not_mix(databases, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "MySQLdb", importlib.import_module("json"))
    with pytest.raises(ImproperlyConfigured, match="mysqlclient"):
        importlib.reload(importlib.import_module("troth.integrations.django.mysql.base"))


def test_middleware(databases):
    seen = []

    def view(request):
        seen.append(troth.current_xid())
        if request.path == "/raises":
            raise Undo
        return HttpResponse(status=int(request.path[1:]))

    handler = troth_middleware(view)
    requests = RequestFactory()
    with troth.transaction(name="buy") as outer:
        xid = outer.xid
        for header in ("TX-XID", "TX_XID"):
            assert handler(requests.get("/404", headers={header: xid})).status_code == 404
        assert handler(requests.get("/200")).status_code == 200
        assert seen == [xid, xid, None]
        two = requests.get("/200", headers={"TX-XID": f"{xid}, {xid[:-1]}"})
        assert handler(two).status_code == 400
    for path in ("/500", "/raises"):
        with pytest.raises(troth.TransactionRolledBack):
            with troth.transaction(name="buy") as outer:
                request = requests.get(path, headers={"TX-XID": outer.xid})
                try:
                    assert handler(request).status_code == 500
                except Undo:
                    assert path == "/raises"


async def test_middleware_in_an_event_loop(databases):
    async def view(request):
        await asyncio.sleep(0)
        return HttpResponse(str(troth.current_xid()), status=int(request.path[1:]))

    handler = troth_middleware(view)
    requests = AsyncRequestFactory()
    async with troth.transaction(name="buy") as outer:
        answer = await handler(requests.get("/200", headers={"TX-XID": outer.xid}))
        assert answer.content.decode() == outer.xid
    with pytest.raises(troth.TransactionRolledBack):
        async with troth.transaction(name="buy") as outer:
            assert (await handler(requests.get("/503", headers={"TX-XID": outer.xid}))).status_code == 503
