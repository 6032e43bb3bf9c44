"""Compressors: there and back, bounded, strict about their ends."""

import io
import random
import zipfile
import zlib

import pytest
import zstandard

from troth.wire.seata import compressors
from troth.wire.seata.compressors import compress, decompress
from troth.wire.seata.enums import CompressorType
from troth.wire.seata.errors import WireError

USABLE = [kind for kind in CompressorType if kind is not CompressorType.SEVENZ]
PACKING = [kind for kind in USABLE if kind is not CompressorType.NONE]
BODIES = [b"ab", b"compress me " * 1000, random.Random(1).randbytes(200_000)]


@pytest.mark.parametrize("body", BODIES, ids=["tiny", "repeating", "random"])
@pytest.mark.parametrize("kind", USABLE)
def test_there_and_back(kind: CompressorType, body: bytes) -> None:
    assert decompress(kind, compress(kind, body)) == body


@pytest.mark.parametrize("kind", USABLE)
def test_a_bomb_is_not_unfolded(kind: CompressorType) -> None:
    bomb = compress(kind, bytes(100_001))
    assert len(decompress(kind, bomb, 100_001)) == 100_001
    with pytest.raises(WireError, match="100000"):
        decompress(kind, bomb, 100_000)


def test_a_zstd_bomb_that_hides_its_size_is_not_unfolded() -> None:
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = packer.compress(bytes(100_000)) + packer.flush()
    assert len(decompress(CompressorType.ZSTD, bomb, 100_000)) == 100_000
    with pytest.raises(WireError, match="ZSTD"):
        decompress(CompressorType.ZSTD, bomb, 99_999)


@pytest.mark.parametrize("damage", [lambda p: p[:-1], lambda p: p + b"x", lambda p: b"", lambda p: b"\0" * 80])
@pytest.mark.parametrize("kind", PACKING)
def test_damage_is_noticed(kind: CompressorType, damage: object) -> None:
    with pytest.raises(WireError, match=kind.name):
        decompress(kind, damage(compress(kind, BODIES[1])))


@pytest.mark.parametrize("kind", [CompressorType.GZIP, CompressorType.ZIP])
def test_a_wrong_checksum_is_noticed(kind: CompressorType) -> None:
    packed = compress(kind, BODIES[1])
    checksum = zlib.crc32(BODIES[1]).to_bytes(4, "little")
    with pytest.raises(WireError, match=kind.name):
        decompress(kind, packed.replace(checksum, b"\0\0\0\0"))


def test_7z_is_refused_with_the_reason() -> None:
    for act in (compress, decompress):
        with pytest.raises(WireError, match="SEVENZ is not supported: no maintained library"):
            act(CompressorType.SEVENZ, b"ab")


@pytest.mark.parametrize(("kind", "library"), [(CompressorType.LZ4, "lz4_frame"), (CompressorType.ZSTD, "zstandard")])
def test_a_missing_library_is_named(kind: CompressorType, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressors, library, None)
    for act in (compress, decompress):
        with pytest.raises(WireError, match=r"pip install 'troth\[compression\]'"):
            act(kind, b"ab")


def test_a_zip_with_its_central_directory_is_read_too() -> None:
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", method) as written:
            written.writestr("zip", BODIES[1])
        assert decompress(CompressorType.ZIP, archive.getvalue()) == BODIES[1]
