"""A saga and the coordinator's own timeout; undoable calls and the end of a program."""

from __future__ import annotations

import time

import troth


def test_a_saga_without_a_deadline_outlives_the_timeout_and_a_commit_leaves_nothing_to_wait_for() -> None:
    """A commit does not ask for compensations: to wait for that would cost each program `phase_two_wait_s`."""

    @troth.step(name="slow-step")
    def slow() -> str:
        time.sleep(0.1)
        return "done"

    @troth.saga(name="long")
    def long() -> list[str]:
        return [slow(), slow()]

    @troth.undoable(name="mail-at-the-end", compensate=lambda _: None)
    def mail() -> None:
        """Nothing."""

    with troth.embedded(timeout__default="50ms", phase_two_wait_s=30.0, dtm_http_port="off"):
        assert long() == ["done", "done"]
        with troth.transaction(name="agent"):
            mail()
        started = time.monotonic()
    assert time.monotonic() - started < 20
