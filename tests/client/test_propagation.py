import pytest

from troth.client.errors import PropagationRefused
from troth.client.propagation import Action, Propagation, decide

XID = "127.0.0.1:8091:1"


@pytest.mark.parametrize(
    ("propagation", "without", "inside"),
    [
        (Propagation.REQUIRED, Action.BEGIN, Action.JOIN),
        (Propagation.REQUIRES_NEW, Action.BEGIN, Action.BEGIN),
        (Propagation.NOT_SUPPORTED, Action.OUTSIDE, Action.OUTSIDE),
        (Propagation.SUPPORTS, Action.OUTSIDE, Action.JOIN),
        (Propagation.NEVER, Action.OUTSIDE, None),
        (Propagation.MANDATORY, None, Action.JOIN),
    ],
)
def test_table(propagation: Propagation, without: Action | None, inside: Action | None) -> None:
    for xid, expected in ((None, without), (XID, inside)):
        if expected is None:
            with pytest.raises(PropagationRefused, match=propagation.name):
                decide(propagation, xid)
        else:
            assert decide(propagation, xid) is expected
