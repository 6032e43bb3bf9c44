"""The subset of Spring's expression language, over plain values."""

from __future__ import annotations

import re
from typing import Any

import pytest

from troth.client.states.spel import Expression, ExpressionError

VARIABLES: dict[str, Any] = {
    "a": 1,
    "text": "it's",
    "order": {"items": [{"price": 3}, {"price": 4}], "paid": False, "note": None},
    "loopResult": [{"fooResult": 1}, {}],
    "collection": [1, 2, 3, 4, 5],
    "nrOfInstances": 5,
    "nrOfCompletedInstances": 2,
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("[a] == 1", True),
        ("a eq 1 and not (a gt 1)", True),
        ("[a] == 3 || [a] == 1", True),
        ("[a]-2", -1),
        ("1", 1),
        ("'it''s' == [text]", True),
        ("[order].items[1].price * 2.5", 10.0),
        ("[order][items][0][price]", 3),
        ("[order]['paid']", False),
        ("[order].note?.text", None),
        ("[missing] == null", True),
        ("[missing] ?: 'none'", "none"),
        ("[a] > 0 ? 'yes' : 'no'", "yes"),
        ("[loopResult].?[#this[fooResult] == null].size() == 0 && [a] == 1", False),
        ("[order].items.![price]", [3, 4]),
        ("[order].items.^[price > 3].price", 4),
        ("[order].items.$[price > 9]", None),
        ("[nrOfCompletedInstances] == ([collection].size()-3)", True),
        ("[nrOfCompletedInstances] / [nrOfInstances] >= 0.4", False),  # whole numbers, as in Java
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("7.0 / 2", 3.5),
        ("'n' + 1 + true", "n1true"),
        ("{1, 2}.contains([a])", True),
        ("[text].toUpperCase().startsWith('IT')", True),
        ("1 == true", False),
    ],
)
def test_values(source: str, value: object) -> None:
    found = Expression(source).evaluate(VARIABLES)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("source", "root"), [("#root != null && #root.size() > 0", [1]), ("#root == true", True)])
def test_the_root_is_the_result(source: str, root: object) -> None:
    assert Expression(source).evaluate(root) is True


@pytest.mark.parametrize(
    "source",
    [
        "",
        "[a",
        "T(java.lang.Runtime)",
        "new X()",
        "#bean.x",
        "@bean",
        "exec('x')",
        "[a].exec('x')",
        "a = 1",
        "1 2",
        "a.",
    ],
)
def test_what_is_not_in_it_is_refused_when_it_is_read(source: str) -> None:
    with pytest.raises(ExpressionError):
        Expression(source)


@pytest.mark.parametrize(
    "source", ["[missing].x", "[a] && true", "[a] < 'x'", "[collection][9]", "[a] / 0", "[a].size()", "[text].get('x')"]
)
def test_what_has_no_value_says_so(source: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(repr(source))):
        Expression(source).evaluate(VARIABLES)
