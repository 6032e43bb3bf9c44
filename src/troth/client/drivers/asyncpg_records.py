"""Records of statements with RETURNING, cut to the columns that the user asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

try:
    import asyncpg  # type: ignore[import-untyped,unused-ignore]
except ImportError as error:
    raise ImportError("this way to PostgreSQL needs asyncpg: pip install 'troth[asyncpg]'") from error

_Record: Any = asyncpg.Record


def cut(base: Any) -> Any:
    """A record class like `base` that shows the first columns only, once `show` has said which.

    asyncpg makes records of whole rows, and lets nobody else make any. Behind the user's columns those of the image
    follow, perhaps under the same names.
    """
    return type(f"Cut{base.__name__}", (_Cut, base), {})


class _Cut(_Record):  # type: ignore[misc]
    """`asyncpg.Record` of the first columns of a row."""

    at_places: ClassVar[Mapping[str, int]] = MappingProxyType({})
    at_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def show(cls, names: tuple[str, ...]) -> None:
        """Show as many columns as there are names."""
        cls.at_names = names
        cls.at_places = MappingProxyType({name: place for place, name in enumerate(names)})

    def _at_values(self) -> tuple[Any, ...]:
        return whole(self)[: len(self.at_names)]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.at_places:
                raise KeyError(key)
            return _Record.__getitem__(self, self.at_places[key])
        return self._at_values()[key]

    def __len__(self) -> int:
        return len(self.at_names)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._at_values())

    def __contains__(self, key: object) -> bool:
        return key in self.at_places

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Cut):
            return self._at_values() == other._at_values()
        if isinstance(other, _Record | tuple):
            return self._at_values() == tuple(other)
        return NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self._at_values() < tuple(other)

    def __hash__(self) -> int:
        return hash(self._at_values())

    def __repr__(self) -> str:
        shown = " ".join(f"{name}={value!r}" for name, value in self.items())
        return f"<Record {shown}>"

    def get(self, key: str, default: Any = None) -> Any:
        """The value of the column, or `default`."""
        return self[key] if key in self.at_places else default

    def keys(self) -> Iterator[str]:
        """Names of the columns."""
        return iter(self.at_names)

    def values(self) -> Iterator[Any]:
        """The values."""
        return iter(self._at_values())

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values."""
        return iter(tuple(zip(self.at_names, self._at_values(), strict=True)))


def whole(record: Any) -> tuple[Any, ...]:
    """All values of the row, those of the image too."""
    return tuple(_Record.values(record))
