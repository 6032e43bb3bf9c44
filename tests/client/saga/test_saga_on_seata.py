"""What a coordinator that keeps no sagas is asked: nothing."""

from __future__ import annotations

from typing import Any

import pytest

import troth
from troth.wire.seata.saga import SAGA_REQUESTS


def test_a_seata_server_is_never_told_of_a_saga_and_the_caller_hears_why(coordinator: Any) -> None:
    @troth.saga(name="refused")
    def refused() -> None:
        """Nothing."""

    try:
        troth.init(coordinator.address)
        with pytest.raises(troth.NotSupported, match=r"@troth\.saga needs `troth serve`"):
            refused()
    finally:
        troth.close()
    assert not [message for message in coordinator.received if isinstance(message, SAGA_REQUESTS)]
