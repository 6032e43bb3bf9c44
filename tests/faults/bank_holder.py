"""The bank that stands: all faults use one, as long as none has failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bank import Bank


class BankHolder:
    """A failed run leaves the bank in an unknown state, so the next one gets another."""

    def __init__(self, new_directory: Callable[[], Path]) -> None:
        self._new_directory = new_directory
        self._bank: Bank | None = None

    def get(self) -> Bank:
        if self._bank is None:
            self._bank = Bank(self._new_directory())
            try:
                self._bank.open()
            except BaseException:
                self.discard()
                raise
        return self._bank

    def discard(self) -> None:
        bank, self._bank = self._bank, None
        if bank is not None:
            bank.close()
