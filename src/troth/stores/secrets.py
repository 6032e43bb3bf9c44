"""Store URLs as they may be shown: without password and options."""

from __future__ import annotations

import re

_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+]*)://"
    r"(?:(?P<user>[^:@/?#]*)(?::[^@/?#]*)?@)?"
    r"(?P<hosts>(?:\[[0-9A-Fa-f:.%]*\]|[^:@/?#\[\],]*)(?::\d*)?(?:,[^@/?#]*)?)"
    r"(?P<path>/[^@?#]*)?"
    r"(?:\?[^@]*)?"
)


def without_secrets(url: str) -> str:
    """`url` for logs, errors and settings. Of one that cannot be taken apart for certain, only the scheme is left.

    >>> without_secrets("postgresql://troth:secret@db:5432/troth?sslpassword=secret")
    'postgresql://troth@db:5432/troth'
    """
    scheme, separator, _ = url.partition("://")
    if scheme in ("memory", "sqlite") or not separator:
        return url
    parts = _URL.fullmatch(url)
    if parts is None:
        return f"{scheme}://…"
    user = f"{parts['user']}@" if parts["user"] else ""
    return f"{parts['scheme']}://{user}{parts['hosts']}{parts['path'] or ''}"
