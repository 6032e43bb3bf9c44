"""gRPC URLs as DTM writes them: `host:port/package.Service/Method`."""

from __future__ import annotations

import re
from typing import NamedTuple

_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]]+):[0-9]{1,5}")
_PATH = re.compile(r"[!-~]+/[!-~]+")


class Method(NamedTuple):
    """The two parts: `host:port` and `/package.Service/Method`."""

    address: str
    path: str


def method_of(url: str) -> Method:
    """Raises ValueError for what is no gRPC URL.

    >>> method_of("10.0.0.5:58081/busi.Busi/TransIn")
    Method(address='10.0.0.5:58081', path='/busi.Busi/TransIn')
    """
    address, slash, path = url.partition("/")
    if not _ADDRESS.fullmatch(address) or not _PATH.fullmatch(path) or path.count("/") != 1:
        raise ValueError(f"{url!r}: expected host:port/package.Service/Method")
    return Method(address, slash + path)
