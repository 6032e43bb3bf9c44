"""Compressors of frame bodies, in the formats Java Seata writes. Every one unfolds into a bounded space.

7z is refused: it needs a whole archive reader, no maintained library does it in memory, and Seata itself dropped it.
"""

import bz2
import zlib
from collections.abc import Callable
from struct import Struct
from types import MappingProxyType
from typing import Final, NamedTuple

from troth.wire.seata.enums import CompressorType
from troth.wire.seata.envelope import MAX_FRAME_LENGTH
from troth.wire.seata.errors import WireError

try:
    from lz4 import frame as lz4_frame
except ImportError:
    lz4_frame = None

try:
    import zstandard
except ImportError:
    zstandard = None  # type: ignore[assignment]

_GZIP_HEAD = bytes.fromhex("1f8b08000000000000ff")
_GZIP_WBITS = 31
_RAW_DEFLATE_WBITS = -15
_GZIP_TAIL = Struct("<II")
_BZIP2_MAGIC = b"BZ"
_LZ4_BLOCK_4MB = 7
_ZSTD_LEVEL = 3
_ZSTD_MAX_WINDOW = 1 << 23

_ZIP_MAGIC = b"PK\3\4"
_ZIP_HEAD = Struct("<4sHHHHHIIIHH")
_ZIP_DESCRIPTOR = Struct("<4sIII")
_ZIP_DESCRIPTOR_MAGIC = b"PK\7\10"
_ZIP_DIRECTORY_MAGIC = b"PK\1\2"
_ZIP_VERSION = 20
_ZIP_SIZES_BEHIND = 0x8
_ZIP_UTF8_NAME = 0x800
_ZIP_STORED = 0
_ZIP_DEFLATED = 8
_ZIP_NAME = b"zip"
_ZIP_DATE_1980 = 0x21  # the format has no earlier day, and this package has no clock

_NO_7Z = "compressor SEVENZ is not supported: no maintained library reads it in memory, and Seata dropped it"


def compress(compressor: CompressorType, body: bytes) -> bytes:
    """`body` compressed. `WireError` for 7z, or where the library is not installed."""
    return _PAIRS[compressor].compress(body)


def decompress(compressor: CompressorType, packed: bytes, max_bytes: int = MAX_FRAME_LENGTH) -> bytes:
    """The body in `packed`. `WireError` if that is not exactly one compressed body of at most `max_bytes`."""
    return _PAIRS[compressor].decompress(packed, max_bytes)


def _same(body: bytes) -> bytes:
    return body


def _bounded_same(packed: bytes, max_bytes: int) -> bytes:
    if len(packed) > max_bytes:
        raise _too_long("NONE", max_bytes)
    return packed


def _gzip(body: bytes) -> bytes:
    return _GZIP_HEAD + _deflate_raw(body) + _GZIP_TAIL.pack(zlib.crc32(body), len(body) & 0xFFFFFFFF)


def _gunzip(packed: bytes, max_bytes: int) -> bytes:
    return _all_of("GZIP", *_inflate("GZIP", packed, _GZIP_WBITS, max_bytes))


def _zlib(body: bytes) -> bytes:
    return zlib.compress(body)


def _unzlib(packed: bytes, max_bytes: int) -> bytes:
    return _all_of("DEFLATER", *_inflate("DEFLATER", packed, zlib.MAX_WBITS, max_bytes))


def _deflate_raw(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=_RAW_DEFLATE_WBITS)
    return deflater.compress(body) + deflater.flush()


def _inflate(name: str, packed: bytes, wbits: int, max_bytes: int) -> tuple[bytes, bytes]:
    """What the deflate stream at the start of `packed` holds, and what stands behind it."""
    inflater = zlib.decompressobj(wbits)
    try:
        body = inflater.decompress(packed, max_bytes + 1)
    except zlib.error as error:
        raise _corrupt(name, error) from None
    if len(body) > max_bytes:
        raise _too_long(name, max_bytes)
    if not inflater.eof:
        raise WireError(f"{name} body ends too early", 0)
    return body, inflater.unused_data


def _zip(body: bytes) -> bytes:
    packed = _deflate_raw(body)
    flags = _ZIP_SIZES_BEHIND | _ZIP_UTF8_NAME
    head = _ZIP_HEAD.pack(_ZIP_MAGIC, _ZIP_VERSION, flags, _ZIP_DEFLATED, 0, _ZIP_DATE_1980, 0, 0, 0, len(_ZIP_NAME), 0)
    return (
        head
        + _ZIP_NAME
        + packed
        + _ZIP_DESCRIPTOR.pack(_ZIP_DESCRIPTOR_MAGIC, zlib.crc32(body), len(packed), len(body))
    )


def _unzip(packed: bytes, max_bytes: int) -> bytes:
    """Java leaves the central directory out, so Python's zipfile cannot read these: start at the local header."""
    if len(packed) < _ZIP_HEAD.size:
        raise WireError("ZIP body ends too early", 0)
    magic, _, flags, method, _, _, crc, size, _, name_size, extra_size = _ZIP_HEAD.unpack_from(packed)
    if magic != _ZIP_MAGIC:
        raise WireError("ZIP body does not start with a local header", 0)
    start = _ZIP_HEAD.size + name_size + extra_size
    if method == _ZIP_DEFLATED:
        body, rest = _inflate("ZIP", packed[start:], _RAW_DEFLATE_WBITS, max_bytes)
    elif method == _ZIP_STORED and not flags & _ZIP_SIZES_BEHIND and start + size <= len(packed):
        body, rest = _bounded_same(packed[start : start + size], max_bytes), packed[start + size :]
    else:
        raise WireError(f"ZIP entry with method {method} and flags {flags:#x} cannot be read", 0)
    if flags & _ZIP_SIZES_BEHIND:
        crc, rest = _zip_descriptor(rest)
    if crc != zlib.crc32(body):
        raise WireError("ZIP body has a wrong checksum", 0)
    if rest.startswith(_ZIP_DIRECTORY_MAGIC):
        return body
    return _all_of("ZIP", body, rest)


def _zip_descriptor(rest: bytes) -> tuple[int, bytes]:
    if len(rest) < _ZIP_DESCRIPTOR.size or not rest.startswith(_ZIP_DESCRIPTOR_MAGIC):
        raise WireError("ZIP entry lacks its data descriptor", 0)
    crc: int = _ZIP_DESCRIPTOR.unpack_from(rest)[1]
    return crc, rest[_ZIP_DESCRIPTOR.size :]


def _bzip2(body: bytes) -> bytes:
    return bz2.compress(body).removeprefix(_BZIP2_MAGIC)


def _unbzip2(packed: bytes, max_bytes: int) -> bytes:
    inflater = bz2.BZ2Decompressor()
    try:
        body = inflater.decompress(_BZIP2_MAGIC + packed, max_bytes + 1)
    except OSError as error:
        raise _corrupt("BZIP2", error) from None
    return _whole("BZIP2", body, inflater.eof, inflater.unused_data, max_bytes)


def _lz4(body: bytes) -> bytes:
    if lz4_frame is None:
        raise _not_installed("LZ4")
    packed: bytes = lz4_frame.compress(body, block_size=_LZ4_BLOCK_4MB, block_linked=False, store_size=False)
    return packed


def _unlz4(packed: bytes, max_bytes: int) -> bytes:
    if lz4_frame is None:
        raise _not_installed("LZ4")
    inflater = lz4_frame.LZ4FrameDecompressor()
    try:
        body = inflater.decompress(packed, max_bytes + 1)
    except RuntimeError as error:
        raise _corrupt("LZ4", error) from None
    return _whole("LZ4", body, inflater.eof, inflater.unused_data or b"", max_bytes)


def _zstd(body: bytes) -> bytes:
    if zstandard is None:
        raise _not_installed("ZSTD")
    packed: bytes = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    return packed


def _unzstd(packed: bytes, max_bytes: int) -> bytes:
    if zstandard is None:
        raise _not_installed("ZSTD")
    try:
        size = zstandard.get_frame_parameters(packed).content_size
        if size > max_bytes and size != zstandard.CONTENTSIZE_UNKNOWN:
            raise _too_long("ZSTD", max_bytes)
        inflater = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
        # Without a size in the frame this fills at most `max_bytes`, and fails when that is not all.
        body: bytes = inflater.decompress(packed, max_output_size=max_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _corrupt("ZSTD", error) from None
    return body


def _no_7z(body: bytes) -> bytes:
    raise WireError(_NO_7Z, 0)


def _no_un7z(packed: bytes, max_bytes: int) -> bytes:
    raise WireError(_NO_7Z, 0)


def _whole(name: str, body: bytes, eof: bool, rest: bytes, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise _too_long(name, max_bytes)
    if not eof:
        raise WireError(f"{name} body ends too early", 0)
    return _all_of(name, body, rest)


def _all_of(name: str, body: bytes, rest: bytes) -> bytes:
    if rest:
        raise WireError(f"{len(rest)} bytes behind the {name} body", 0)
    return body


def _corrupt(name: str, error: Exception) -> WireError:
    return WireError(f"{name} body cannot be decompressed: {error}", 0)


def _too_long(name: str, max_bytes: int) -> WireError:
    return WireError(f"{name} body unfolds to more than {max_bytes} bytes", 0)


def _not_installed(name: str) -> WireError:
    return WireError(f"compressor {name} needs a library: pip install 'troth[compression]'", 0)


class _Pair(NamedTuple):
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


_PAIRS: Final = MappingProxyType(
    {
        CompressorType.NONE: _Pair(_same, _bounded_same),
        CompressorType.GZIP: _Pair(_gzip, _gunzip),
        CompressorType.ZIP: _Pair(_zip, _unzip),
        CompressorType.SEVENZ: _Pair(_no_7z, _no_un7z),
        CompressorType.BZIP2: _Pair(_bzip2, _unbzip2),
        CompressorType.LZ4: _Pair(_lz4, _unlz4),
        CompressorType.DEFLATER: _Pair(_zlib, _unzlib),
        CompressorType.ZSTD: _Pair(_zstd, _unzstd),
    }
)
