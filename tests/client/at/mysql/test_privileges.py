"""Triggers that the server hides from AT's user: `troth at check` warns. By grants of a real MariaDB, else as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pymysql
import pytest
from typer.testing import CliRunner

import troth.at
from troth.cli import at
from troth.client.drivers import checking
from troth.client.drivers.pymysql_places import opened, parse_url
from troth.client.drivers.resource import NoCoordinator
from troth.client.drivers.running import run
from troth.client.flow import Flow, Query, Rows
from troth.client.sql.dialects import mysql_privileges
from troth.client.sql.dialects.mysql_privileges import hidden_triggers, shows_names, without_trigger

TABLES = ("item", "part")
DML = "SELECT, INSERT, UPDATE, DELETE"


class Shop:
    """A database with two tables, and users who may write to them and what their grants add."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}?ssl_disabled=true"
        self.place = parse_url(self.url)
        self._raw = pymysql.connect(**self.place.arguments({"autocommit": True}))
        self._made: list[str] = []
        troth.at.init(self.url)
        for table in TABLES:
            self.run(f"CREATE TABLE {table} (id INT PRIMARY KEY)")
        self.run("CREATE TRIGGER tr AFTER INSERT ON item FOR EACH ROW SET @seen = 1")

    def run(self, sql: str) -> None:
        with self._raw.cursor() as cursor:
            cursor.execute(sql)

    def role(self, *grants: str) -> str:
        name = f"{self.place.database}_role{len(self._made)}"
        self.run(f"CREATE ROLE {name}")
        self._made.append(f"ROLE {name}")
        for grant in grants:
            self.run(grant.format(db=self.place.database, who=name))
        return name

    def user(self, *grants: str) -> str:
        """The URL for a new user."""
        name = f"{self.place.database}_user{len(self._made)}"
        self.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'word'")
        self._made.append(f"USER {name}@'%'")
        for grant in (f"GRANT {DML} ON {{db}}.* TO {{who}}", *grants):
            self.run(grant.format(db=self.place.database, who=f"{name}@'%'"))
        return f"mysql://{name}:word@{self.url.partition('@')[2]}"

    def close(self) -> None:
        with closing(self._raw):
            for made in reversed(self._made):
                self.run(f"DROP {made}")


@pytest.fixture(scope="module")
def shop(new_mariadb_database: Callable[[], str]) -> Iterator[Shop]:
    made = Shop(new_mariadb_database())
    yield made
    made.close()


def asked(url: str, flow: Callable[[str, str], Flow[list[str]]], before: str = "DO 0") -> list[str]:
    """What a flow finds as the user of `url`."""
    place = parse_url(url)
    with opened(place.arguments({})) as executor:
        executor.query(Query(before))
        version = str(executor.query(Query("SELECT VERSION()")).rows[0][0])
        return run(flow(version, place.database), executor, NoCoordinator())


@pytest.mark.engines
@pytest.mark.parametrize(
    ("grants", "lacking"),
    [
        ([], ["item", "part"]),
        (["GRANT TRIGGER ON {db}.part TO {who}"], ["item"]),
        (["GRANT SELECT (id), TRIGGER ON {db}.item TO {who}"], ["part"]),
        (["GRANT TRIGGER ON {db}.* TO {who}"], []),
        (["GRANT TRIGGER ON `test\\_%`.* TO {who}"], []),
        (["GRANT TRIGGER ON `test\\_x%`.* TO {who}"], ["item", "part"]),
        (["GRANT ALL ON {db}.* TO {who}"], []),
        (["GRANT TRIGGER ON *.* TO {who}"], []),
    ],
)
def test_tables_without_the_privilege_are_found_by_the_grants(
    shop: Shop, grants: list[str], lacking: list[str]
) -> None:
    assert asked(shop.user(*grants), without_trigger) == lacking


@pytest.mark.engines
def test_a_role_counts_while_it_is_set(shop: Shop) -> None:
    role = shop.role("GRANT TRIGGER ON {db}.* TO {who}")
    url = shop.user(f"GRANT {role} TO {{who}}")
    assert asked(url, without_trigger) == ["item", "part"]
    assert asked(url, without_trigger, f"SET ROLE {role}") == []


@pytest.mark.engines
def test_the_warning_is_given_where_the_server_hides_them_and_is_no_failure(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This server shows their names without the privilege; with `shows_names` as of an older one the warning comes."""
    url = shop.user()
    place = parse_url(url)
    with closing(pymysql.connect(**place.arguments({}))) as raw, raw.cursor() as cursor:
        cursor.execute("SELECT VERSION(), COUNT(*) FROM information_schema.TRIGGERS WHERE TRIGGER_NAME = 'tr'")
        ((version, visible),) = cursor.fetchall()
    if shows_names(version):
        assert visible == 1
    assert bool(checking.check_rights(url)) is not shows_names(version)
    monkeypatch.setattr(mysql_privileges, "shows_names", lambda version: False)
    result = CliRunner().invoke(at.app, ["check", url])
    assert result.exit_code == 0, result.output
    assert "warning: " in result.stderr
    assert "has no privilege TRIGGER on item, part: the server hides their triggers" in result.stderr
    assert ":word@" not in result.output
    assert "warning" not in CliRunner().invoke(at.app, ["check", shop.url]).stderr


@pytest.mark.parametrize(
    ("version", "shows"),
    [
        ("10.11.19-MariaDB-0+deb12u1-log", True),
        ("10.11.18-MariaDB", False),
        ("10.6.21-MariaDB", False),
        ("8.4.3", False),
        ("10.11.19", False),
    ],
)
def test_servers_that_are_known_to_show_names(version: str, shows: bool) -> None:
    assert shows_names(version) is shows


def answered(version: str, *answers: list[tuple[object, ...]]) -> tuple[list[str], list[str]]:
    """What comes of the flow, given a server's version and its answers; and what it has asked."""
    flow = hidden_triggers()
    asked_for = []
    step = next(flow)
    for rows in ([(version, "shop", "app@%")], *answers):
        assert isinstance(step, Query)
        asked_for.append(step.sql)
        try:
            step = flow.send(Rows(("x",), rows, len(rows), None))
        except StopIteration as end:
            return end.value, asked_for
    raise AssertionError(f"it asks for more: {step}")


SELECTED: Any = [("GRANT SELECT ON `shop`.* TO `app`@`%`",)]
EVERYWHERE = "GRANT SELECT, TRIGGER ON *.* TO `app`@`%`"


def test_older_servers_have_no_roles_to_ask_for() -> None:
    said, asked_for = answered("5.7.44-log", SELECTED, [(f"t{number}",) for number in range(7)])
    assert said[0].startswith("app@% has no privilege TRIGGER on t0, t1, t2, t3, t4 and 2 more: ")
    assert not any("ROLE" in sql for sql in asked_for)


def test_the_roles_of_mysql_are_asked_for_by_name() -> None:
    through_role = [*SELECTED, ("GRANT TRIGGER ON `shop`.* TO `app`@`%`",), ("GRANT `r`@`%` TO `app`@`%`",)]
    said, asked_for = answered("8.4.3", SELECTED, [("`r`@`%`",)], through_role)
    assert said == []
    assert asked_for[-1] == "SHOW GRANTS FOR CURRENT_USER() USING `r`@`%`"
    said, _ = answered("8.4.3", SELECTED, [("NONE",)], [("item",)])
    assert said


def test_what_is_revoked_from_all_is_not_held() -> None:
    partial = [(EVERYWHERE,), ("REVOKE TRIGGER ON `shop`.* FROM `app`@`%`",)]
    assert answered("8.4.3", partial, [("NONE",)], [("item",)])[0]
    other = [(EVERYWHERE,), ("REVOKE TRIGGER ON `other`.* FROM `app`@`%`",)]
    assert answered("8.4.3", other, [("NONE",)])[0] == []


@pytest.mark.parametrize(
    "grant", ["GRANT ALL PRIVILEGES ON `sh%`.* TO x", 'GRANT TRIGGER, UPDATE ON "shop".* TO x', EVERYWHERE]
)
def test_what_covers_the_database(grant: str) -> None:
    assert answered("5.7.44", [(grant,)])[0] == []


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT PROXY ON ``@`` TO `root`@`localhost`",
        "GRANT EXECUTE ON PROCEDURE `shop`.`trigger` TO x",
        "GRANT TRIGGER ON `sh\\_p`.* TO x",
        "GRANT TRIGGER ON `shop``s`.* TO x",
        "GRANT SELECT (`TRIGGER`) ON `shop`.`item` TO x",
    ],
)
def test_what_does_not_cover_the_database(grant: str) -> None:
    assert answered("5.7.44", [(grant,)], [("item",)])[0]
