"""Lock keys: Seata's text, and one text for what the database takes for one key."""

from __future__ import annotations

import pytest

from troth.client.sql import lockkeys
from troth.client.sql.dialects.sqlite_lockkeys import lock_part
from troth.client.sql.lockkeys import lock_text
from troth.client.sql.tables import Column, Table, UniqueKey


def primary_lock(one, row):
    return lockkeys.primary_lock(one, row, lock_part)


def unique_locks(one, row):
    return lockkeys.unique_locks(one, row, lock_part)


def changed_unique_locks(one, before, after):
    return lockkeys.changed_unique_locks(one, before, after, lock_part)


def table(*collations: str, name: str = "t", keeps_real: bool = False) -> Table:
    columns = [
        Column(f"c{place}", 12, key_position=place + 1, collation=collation, keeps_real=keeps_real)
        for place, collation in enumerate(collations)
    ]
    return Table(name, tuple(columns))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (-5, "-5"),
        ("plain", "plain"),
        ("with:colon", "with:colon"),
        ("with,comma;semi", "with%2Ccomma%3Bsemi"),
        ("", "%"),
        (1.5, "1.5"),
        (2.0, "2"),
        (1e300, str(int(1e300))),
        (b"\x00\xff", "x00ff"),
        (float("inf"), "Infinity"),
    ],
)
def test_key_text(value, text):
    assert primary_lock(table("BINARY"), (value,)) == ("t", text)


def test_real_columns_as_java_spells_them():
    assert primary_lock(table("BINARY", keeps_real=True), (2.0,)) == ("t", "2.0")


@pytest.mark.parametrize(("collation", "one", "other"), [("NOCASE", "Ann", "aNN"), ("RTRIM", "a  ", "a")])
def test_equal_keys_have_equal_text(collation, one, other):
    assert primary_lock(table(collation), (one,)) == primary_lock(table(collation), (other,))
    assert primary_lock(table("BINARY"), (one,)) != primary_lock(table("BINARY"), (other,))


def test_composite_keys_follow_the_key_not_the_table():
    backwards = Table("p", (Column("b", 12, key_position=2), Column("v", 4), Column("a", 4, key_position=1)))
    assert primary_lock(backwards, ("x", 0, 1)) == ("p", "1_x")


def test_text_of_several():
    locks = [("word", "new"), ("pair", "2_x"), ("kinds", "2"), ("pair", "2_x"), ("pair", "1_x")]
    assert lock_text(locks) == "kinds:2;pair:2_x,1_x;word:new"
    assert lock_text([]) == ""


def test_table_names_are_escaped():
    assert primary_lock(table("BINARY", name="a:b;c,d"), (1,)) == ("a%3Ab%3Bc%2Cd", "1")


def test_unique_keys():
    columns = (Column("id", 4, key_position=1), Column("a", 12), Column("b", 12))
    keys = (UniqueKey("u", ("a", "b"), ("BINARY", "NOCASE")), UniqueKey("part", ("b",), ("BINARY",), partial=True))
    unique = Table("t", columns, keys)
    assert list(unique_locks(unique, (1, "x", "Y"))) == [("t#u", "x_y"), ("t#part", "Y")]
    assert list(unique_locks(unique, (1, None, "Y"))) == [("t#part", "Y")]
    assert list(changed_unique_locks(unique, (1, "x", "Y"), (1, "x", "Y"))) == [("t#part", "Y")]
    assert list(changed_unique_locks(unique, (1, "x", None), (1, "z", None))) == []
    assert list(changed_unique_locks(unique, (1, "x", "q"), (1, "z", None))) == [("t#u", "x_q"), ("t#part", "q")]


def test_a_seata_server_gets_no_locks_of_unique_keys_but_those_of_a_table_that_is_named_like_one():
    one = Table("t#u", (Column("id", 4, key_position=1),))
    two = Table("t", (Column("id", 4, key_position=1), Column("a", 12)), (UniqueKey("u", ("a",), ("BINARY",)),))
    locks = [("t", "1"), ("t#u", "2"), *unique_locks(two, (1, "a"))]
    text = lock_text(locks)
    assert text == "t:1;t#u:2,a"
    assert isinstance(text, lockkeys.LockText)
    assert text.of_seata == "t:1;t#u:2"
    assert primary_lock(one, (2,)) == ("t#u", "2")
    assert type(lock_text(locks[:2])) is str
