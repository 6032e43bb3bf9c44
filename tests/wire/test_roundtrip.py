"""Every message type, in both versions, however the bytes are cut: what was written is what is read."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields as fields_of
from msgspec.structs import replace

from troth.wire.seata import lock_wait
from troth.wire.seata import messages as m
from troth.wire.seata.bodies import LAYOUTS
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import (
    BranchStatus,
    BranchType,
    CompressorType,
    GlobalStatus,
    MessageType,
    ResultCode,
    SerializerType,
    TransactionExceptionCode,
)
from troth.wire.seata.envelope import Frame
from troth.wire.seata.frame import decode_frame, encode_frame
from troth.wire.seata.json import fields_to_message, frame_to_object, message_to_fields, object_to_frame
from troth.wire.seata.layouts import DEFAULT_SAVE_DAYS, SEATA_VERSION
from troth.wire.seata.lock_wait import LOCK_LAYOUTS, RowLockMode

CONTAINERS = (m.MergedWarpMessage, m.MergeResultMessage, m.BatchResultMessage)
RESULTS = (m.TransactionResponse, m.RegisterResponse)
SINGLE = [layout.message for layout in (*LAYOUTS.values(), *LOCK_LAYOUTS) if layout.message not in CONTAINERS]
RESULT = [kind for kind in SINGLE if issubclass(kind, RESULTS)]

BITS = {"timeout_ms": 32, "keep_ms": 32, "save_days": 16, "branch_id": 64}
texts = st.none() | st.text(max_size=60)
BY_TYPE = {
    str | None: texts,
    bool: st.booleans(),
    BranchType: st.sampled_from(BranchType),
    BranchStatus: st.sampled_from(BranchStatus),
    GlobalStatus: st.sampled_from(GlobalStatus),
    GlobalStatus | None: st.none() | st.sampled_from(GlobalStatus),
    ResultCode: st.sampled_from(ResultCode),
    RowLockMode: st.sampled_from(RowLockMode),
    ResultCode | None: st.none() | st.sampled_from(ResultCode),
    TransactionExceptionCode: st.sampled_from(TransactionExceptionCode),
}


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


def single(kind: type[m.Message]) -> st.SearchStrategy[m.Message]:
    values = {
        field.name: signed(BITS[field.name]) if field.type is int else BY_TYPE[field.type] for field in fields_of(kind)
    }
    return st.builds(kind, **values)


singles = st.sampled_from(SINGLE).flatmap(single)
results = st.sampled_from(RESULT).flatmap(single)


@st.composite
def containers(draw: st.DrawFn) -> m.Message:
    kind = draw(st.sampled_from(CONTAINERS))
    children = tuple(draw(st.lists(singles if kind is m.MergedWarpMessage else results, max_size=5)))
    if kind is m.MergeResultMessage:
        return kind(children)
    return kind(children, tuple(draw(signed(32)) for _ in children))


messages = singles | containers()
head_maps = st.dictionaries(st.text(max_size=20), texts, max_size=4)
body_kinds = st.sampled_from([MessageType.REQUEST, MessageType.RESPONSE, MessageType.ONEWAY])
heartbeats = st.sampled_from([MessageType.HEARTBEAT_PING, MessageType.HEARTBEAT_PONG])
compressors = st.sampled_from([kind for kind in CompressorType if kind is not CompressorType.SEVENZ])
frames_v1 = st.builds(
    Frame, st.just(1), body_kinds, st.just(SerializerType.SEATA), compressors, signed(32), head_maps, messages
) | st.builds(
    Frame,
    st.just(1),
    heartbeats,
    st.sampled_from(SerializerType),
    st.sampled_from(CompressorType),
    signed(32),
    head_maps,
    st.just(m.HeartbeatMessage()),
)
nothing = st.just(CompressorType.NONE)
frames_v0 = st.builds(
    Frame,
    st.just(0),
    st.sampled_from([MessageType.RESPONSE, MessageType.ONEWAY]),
    st.just(SerializerType.SEATA),
    nothing,
    signed(64),
    st.just({}),
    messages,
) | st.builds(
    Frame,
    st.just(0),
    heartbeats,
    st.sampled_from([SerializerType.SEATA, SerializerType.HESSIAN]),
    nothing,
    signed(64),
    st.just({}),
    st.just(m.HeartbeatMessage()),
)


def as_read(message: m.Message) -> m.Message:
    """What Seata reads when `message` was written: the losses of PROTOCOL §3, said a second time and differently."""
    if isinstance(message, CONTAINERS):
        name = "result_messages" if isinstance(message, m.BatchResultMessage) else "msgs"
        return replace(message, **{name: tuple(map(as_read, getattr(message, name)))})
    empty = "" if isinstance(message, m.RegisterTMRequest) else None
    texts = {f.name: getattr(message, f.name) or empty for f in fields_of(type(message)) if f.type == str | None}
    message = replace(message, **texts)
    if isinstance(message, m.RegisterRMRequest) and message.version is None:
        return m.RegisterRMRequest(SEATA_VERSION, None, None)
    if isinstance(message, m.RegisterResponse):
        return type(message)(message.identified, message.version or SEATA_VERSION)
    if isinstance(message, m.UndoLogDeleteRequest) and message.resource_id is None:
        return replace(message, save_days=DEFAULT_SAVE_DAYS)
    if isinstance(message, m.TransactionResponse) and message.result_code is ResultCode.Success:
        return replace(message, msg=None)
    return message


def read_frame(frame: Frame) -> Frame:
    return replace(frame, body=as_read(frame.body))


@given(frames_v1 | frames_v0)
def test_frame(frame: Frame) -> None:
    data = encode_frame(frame)
    assert decode_frame(data) == read_frame(frame)
    assert encode_frame(decode_frame(data)) == encode_frame(read_frame(frame))


@given(frames_v1 | frames_v0)
def test_frame_through_json(frame: Frame) -> None:
    data = encode_frame(read_frame(frame))
    assert object_to_frame(frame_to_object(data)) == data


@given(messages)
def test_message_through_json(message: m.Message) -> None:
    assert fields_to_message(type(message), message_to_fields(message)) == message


@given(st.lists(frames_v1, max_size=6) | st.lists(frames_v0, max_size=6), st.data())
def test_any_cut_gives_the_same_frames(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    connection = Connection(max_unregistered_bytes=None)
    read = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += connection.receive_data(memoryview(stream)[start:stop])
    assert read == [read_frame(frame) for frame in frames]


def test_every_message_type_is_drawn() -> None:
    known = [*vars(m).values(), *vars(lock_wait).values()]
    assert {*SINGLE, *CONTAINERS, m.HeartbeatMessage} == {
        kind for kind in known if isinstance(kind, type) and "TYPE_CODE" in vars(kind)
    }
