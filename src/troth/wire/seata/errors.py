"""The errors of this package. Their own module, so that nothing here needs an import cycle."""


class WireError(ValueError):
    """Bytes that are not Seata's protocol, or a message that the protocol cannot carry.

    `reason` is one sentence for a log. `offset` is the byte where it was noticed: counted from the start of the frame
    when one was being read (inside a compressed body: as if it had not been compressed), 0 when one was being written.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.reason} (at byte {self.offset})"


class Truncated(WireError):
    """The bytes end, or the frame does, before the message does. `needed`: index behind the first missing field.

    A version 0 frame does not tell its length, so there this means "read more"; everywhere else it is an error.
    """

    def __init__(self, reason: str, offset: int, needed: int) -> None:
        super().__init__(reason, offset)
        self.needed = needed
