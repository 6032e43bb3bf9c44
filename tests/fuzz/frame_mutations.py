"""Frames that Seata wrote, spoiled: what a broken, hostile or merely odd client may send. All chance is the seed's."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchStatus, BranchType, GlobalStatus
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import decode_frame, encode_frame

VECTORS: Final = Path(__file__).parents[1] / "wire" / "data" / "vectors.jsonl"
_LONGEST_VECTOR: Final = 4000
"""Longer ones would make the run a test of copying."""
_LENGTH_AT: Final = 3
_BODY_AT: Final = 16
_LIES: Final = (0, 1, 2, 15, 16, 17, 255, 32767, 32768, 65535, 1 << 20, 8 << 20, (8 << 20) + 1, 0x7FFFFFFF, 0xFFFFFFFF)
_TYPES: Final = tuple(BranchType)
_STATUSES: Final = tuple(BranchStatus)
_BAD_TEXT: Final = (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\0", b"\xe2\x82")
_RESOURCES: Final = ("jdbc:fuzz", "jdbc:other", "", "x" * 300)
_LOCKS: Final = (
    "t:1",
    "t:1,2;u:a",
    "t:",
    ":",
    ";",
    "t:1;",
    "t",
    "t:1_2,1_3",
    "t:" + ",".join(map(str, range(200))),
    "é:ü",
)


def seeds() -> list[bytes]:
    """The vectors that are short enough, as bytes."""
    lines = VECTORS.read_text(encoding="utf-8").splitlines()
    frames = [bytes.fromhex(json.loads(line)["frame_hex"]) for line in lines]
    return [frame for frame in frames if len(frame) <= _LONGEST_VECTOR]


class Mutator:
    """Draws inputs. `learn` takes xids from answers, so that some requests are about things that exist."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self._seeds = seeds()
        self._connection = Connection(max_unregistered_bytes=None)
        self._xids: list[str] = ["", "x", "127.0.0.1:8091:1", "é" * 60, "x" * 200]
        self._branches: list[int] = [0, 1, -1, 2**63 - 1]
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            self._flip_bits,
            self._set_bytes,
            self._cut,
            self._lie_about_length,
            self._lie_inside,
            self._break_text,
            self._join,
            self._insert,
            self._huge_text,
            self._merge,
        )

    def learn(self, answer: m.Message) -> None:
        """Remember what the coordinator made, the newest few."""
        if isinstance(answer, m.GlobalBeginResponse) and answer.xid:
            self._xids = [*self._xids[:5], *self._xids[5:][-20:], answer.xid]
        elif isinstance(answer, m.BranchRegisterResponse) and answer.branch_id:
            self._branches = [*self._branches[:4], *self._branches[4:][-20:], answer.branch_id]

    def registration(self) -> bytes:
        """A good one: most inputs should get beyond it."""
        version = self.chance.choice(("2.6.0", "1.4.2", "", "latest"))
        if self.chance.random() < 0.5:
            return self._bytes(m.RegisterTMRequest(version, "fuzz", "g", ""))
        return self._bytes(m.RegisterRMRequest(version, "fuzz", "g", "", ",".join(_RESOURCES[:2])))

    def draw(self) -> bytes:
        """One input: a good request, a vector, or either of them spoiled up to three times."""
        data = self._request() if self.chance.random() < 0.5 else self.chance.choice(self._seeds)
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 3))):
            data = self.chance.choice(self._ways)(data)
        return data

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` as a network may deliver it."""
        if len(data) < 2 or self.chance.random() < 0.7:
            return [data]
        cuts = sorted(self.chance.randrange(1, len(data)) for _ in range(self.chance.randint(1, 4)))
        return [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    # ---- good requests, in any order ----

    def _request(self) -> bytes:
        return self._bytes(self._message())

    def _message(self) -> m.Message:
        chance = self.chance
        xid, resource, keys = chance.choice(self._xids), chance.choice(_RESOURCES), chance.choice(_LOCKS)
        branch = chance.choice(self._branches)
        made: tuple[Callable[[], m.Message], ...] = (
            lambda: m.GlobalBeginRequest(chance.choice((1, 20, 60, 200, 0, -1)), "fuzz"),
            lambda: m.GlobalBeginRequest(chance.choice((50, 100, 200)), "fuzz"),
            lambda: m.BranchRegisterRequest(
                xid, chance.choice(tuple(BranchType)), resource, keys, '{"autoCommit":false}'
            ),
            lambda: m.BranchRegisterRequest(xid, BranchType.AT, resource, keys),
            lambda: m.BranchReportRequest(xid, branch, resource, chance.choice(_STATUSES)),
            lambda: m.GlobalCommitRequest(xid),
            lambda: m.GlobalRollbackRequest(xid),
            lambda: m.GlobalStatusRequest(xid),
            lambda: m.GlobalReportRequest(xid, None, chance.choice(tuple(GlobalStatus))),
            lambda: m.GlobalLockQueryRequest(xid, BranchType.AT, resource, keys),
            lambda: m.BranchCommitResponse(xid=xid, branch_id=branch, branch_status=chance.choice(_STATUSES)),
            lambda: m.BranchRollbackResponse(xid=xid, branch_id=branch, branch_status=chance.choice(_STATUSES)),
        )
        return chance.choice(made)()

    def _bytes(self, message: m.Message) -> bytes:
        try:
            return self._connection.send(self._connection.request(message))
        except WireError:
            return self.chance.choice(self._seeds)

    # ---- ways to spoil ----

    def _at(self, data: bytes, size: int = 1) -> int:
        return self.chance.randrange(max(1, len(data) - size + 1))

    def _over(self, data: bytes, at: int, new: bytes) -> bytes:
        return data[:at] + new + data[at + len(new) :]

    def _flip_bits(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 2, 8)) if changed else 0):
            changed[self._at(data)] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def _set_bytes(self, data: bytes) -> bytes:
        return self._over(data, self._at(data), self.chance.randbytes(self.chance.choice((1, 2, 4, 8))))

    def _cut(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _lie_about_length(self, data: bytes) -> bytes:
        return self._over(data, _LENGTH_AT, struct.pack(">I", self.chance.choice(_LIES)))

    def _lie_inside(self, data: bytes) -> bytes:
        """A count or a text length somewhere in the body."""
        lie = self.chance.choice(_LIES)
        packed = struct.pack(">I", lie) if self.chance.random() < 0.5 else struct.pack(">H", lie & 0xFFFF)
        at = _BODY_AT + self.chance.randrange(max(1, len(data) - _BODY_AT))
        return self._over(data, min(at, len(data)), packed)

    def _break_text(self, data: bytes) -> bytes:
        return self._over(data, self._at(data), self.chance.choice(_BAD_TEXT))

    def _join(self, data: bytes) -> bytes:
        return data + (self._request() if self.chance.random() < 0.5 else self.chance.choice(self._seeds))

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self.chance.randbytes(self.chance.choice((1, 3, 16, 200))) + data[at:]

    def _huge_text(self, _: bytes) -> bytes:
        text = self.chance.choice(("x", "é", "\0", ";", ",", "t:1;")) * self.chance.choice((1000, 8000, 16000))
        return self._bytes(
            m.BranchRegisterRequest(self.chance.choice(self._xids), BranchType.AT, text[:9000], text, text)
        )

    def _merge(self, data: bytes) -> bytes:
        """Requests in one frame; sometimes the count lies, or a frame that is merged already is merged again."""
        children = tuple(self._message() for _ in range(self.chance.choice((1, 2, 5, 40))))
        ids = tuple(range(1, len(children) + 1)) if self.chance.random() < 0.8 else ()
        try:
            merged = encode_frame(self._connection.oneway(m.MergedWarpMessage(children, ids)))
        except WireError:
            return data
        if self.chance.random() < 0.3:
            merged = self._nest(merged)
        return merged

    @staticmethod
    def _nest(merged: bytes) -> bytes:
        """The merged body as a child of a merged frame: our own writer refuses to write that."""
        body = merged[_BODY_AT:]
        content = struct.pack(">HiH", 59, len(body) + 2, 1) + body + struct.pack(">i", 1)
        head = bytearray(merged[:_BODY_AT])
        struct.pack_into(">I", head, _LENGTH_AT, _BODY_AT + len(content))
        return bytes(head) + content


def is_whole_frame(data: bytes) -> bool:
    """True for a frame that can be read as it is."""
    try:
        decode_frame(data)
    except WireError:
        return False
    return True
