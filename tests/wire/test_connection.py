"""The connection: chunks, limits, versions, ids, and what answers repeat."""

import time

import pytest

from troth.wire.seata import messages as m
from troth.wire.seata.connection import Connection
from troth.wire.seata.enums import BranchType, CompressorType, MessageType, SerializerType
from troth.wire.seata.envelope import MAX_FRAME_LENGTH
from troth.wire.seata.errors import WireError
from troth.wire.seata.frame import decode_frame

LIMIT = 262144


def sender(version: int = 1, compressor: CompressorType = CompressorType.NONE) -> Connection:
    return Connection(max_unregistered_bytes=None, protocol_version=version, compressor=compressor)


def requests(connection: Connection, count: int) -> bytes:
    return b"".join(connection.send(connection.request(m.GlobalCommitRequest(f"x:{i}"))) for i in range(count))


@pytest.mark.parametrize("version", [0, 1])
def test_many_frames_in_one_read_and_a_rest(version: int) -> None:
    client, server = sender(version), Connection()
    stream = requests(client, 3)
    first = server.receive_data(stream[:-5])
    second = server.receive_data(bytearray(stream[-5:]))
    assert [frame.body.xid for frame in first] == ["x:0", "x:1"]
    assert [frame.body.xid for frame in second] == ["x:2"]
    assert server.protocol_version == version


@pytest.mark.parametrize("version", [0, 1])
def test_a_long_frame_in_small_pieces_is_not_copied_at_each(version: int) -> None:
    client, server = sender(version), sender()
    long = m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * 4_000_000)
    data = memoryview(client.send(client.request(long)))
    started = time.process_time()
    frames = [frame for at in range(0, len(data), 100) for frame in server.receive_data(data[at : at + 100])]
    assert [frame.body for frame in frames] == [long]
    # Copying what is there at each of the 40 000 pieces would move 80 GB.
    assert time.process_time() - started < 5


def test_ids_count_up_and_wrap_to_one() -> None:
    connection = sender()
    assert [connection.request(m.GlobalCommitRequest("x")).request_id, connection.ping().request_id] == [1, 2]
    connection._last_id = 0x7FFFFFFF
    assert connection.oneway(m.GlobalCommitRequest("x")).request_id == 1


@pytest.mark.parametrize("compressor", [CompressorType.NONE, CompressorType.GZIP])
def test_a_reply_repeats_version_codec_compressor_and_id_but_no_head_map(compressor: CompressorType) -> None:
    client, server = sender(compressor=compressor), Connection()
    (asked,) = server.receive_data(client.send(client.request(m.GlobalBeginRequest(1, "n"))))
    answer = server.reply(asked, m.GlobalBeginResponse(xid="x"))
    assert (answer.message_type, answer.request_id) == (MessageType.RESPONSE, asked.request_id)
    assert (answer.codec, answer.compressor) == (SerializerType.SEATA, compressor)
    assert answer.head_map == {}
    (got,) = client.receive_data(server.send(answer))
    assert got == answer


@pytest.mark.parametrize("version", [0, 1])
def test_ping_and_pong(version: int) -> None:
    client, server = sender(version), Connection()
    (ping,) = server.receive_data(client.send(client.ping()))
    assert ping.message_type is MessageType.HEARTBEAT_PING
    (pong,) = client.receive_data(server.send(server.pong(ping)))
    assert pong.message_type is MessageType.HEARTBEAT_PONG
    assert pong.request_id == ping.request_id
    assert pong.protocol_version == version


def test_what_a_server_opens_goes_in_the_version_of_the_first_frame() -> None:
    server = Connection()
    server.receive_data(requests(sender(0), 1))
    call = server.request(m.BranchCommitRequest("x", 1, BranchType.AT, "r"))
    assert server.send(call)[2] == 0


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0)])
def test_the_version_is_decided_once(first: int, then: int) -> None:
    server = Connection()
    server.receive_data(requests(sender(first), 1))
    with pytest.raises(WireError, match=f"protocol version {then} on a connection of version {first}"):
        server.receive_data(requests(sender(then), 1))


def test_version_0_keeps_64_bits_of_the_id() -> None:
    data = bytes.fromhex("dada00900007") + (1 << 40).to_bytes(8, "big") + bytes(4)
    server = Connection()
    (asked,) = server.receive_data(data)
    assert decode_frame(server.send(server.reply(asked, m.GlobalCommitResponse()))).request_id == 1 << 40


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_wrong_start_is_refused_before_a_head_is_there(cut: int) -> None:
    with pytest.raises(WireError, match=r"wrong magic|unknown protocol version"):
        Connection().receive_data(b"\xda\xda\x07"[:cut] if cut == 3 else b"PO"[:cut])


def test_a_failed_connection_stays_failed_and_holds_nothing() -> None:
    server = Connection()
    with pytest.raises(WireError):
        server.receive_data(b"GET")
    with pytest.raises(WireError, match="wrong magic"):
        server.receive_data(requests(sender(), 1))


def test_offsets_count_from_the_start_of_the_faulty_frame() -> None:
    good = requests(sender(), 3)
    bad = bytearray(requests(sender(), 1))
    bad[9] = 7
    with pytest.raises(WireError) as caught:
        sender().receive_data(good + bad)
    assert caught.value.offset == 9


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_body_that_ends_too_early_does_not_borrow_from_the_next_frame(cut: int) -> None:
    good = requests(sender(), 1)
    short = bytearray(good[:-cut])
    short[3:7] = len(short).to_bytes(4, "big")
    with pytest.raises(WireError, match=r"ends in the middle|past the end"):
        sender().receive_data(bytes(short) + good)


class TestBeforeRegistration:
    def test_a_stranger_may_send_so_much_and_no_more(self) -> None:
        client, server = sender(), Connection()
        ping = client.send(client.ping())
        for _ in range(LIMIT // len(ping)):
            server.receive_data(ping)
        with pytest.raises(WireError, match=f"bytes without a registration, {LIMIT} are allowed"):
            server.receive_data(ping)

    def test_a_long_frame_is_refused_by_its_head(self) -> None:
        client = sender()
        data = client.send(client.request(m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * LIMIT)))
        with pytest.raises(WireError, match=f"{LIMIT} are allowed"):
            Connection().receive_data(data[:16])

    def test_version_0_is_held_to_it_as_well(self) -> None:
        client = sender(0)
        data = client.send(client.request(m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * LIMIT)))
        with pytest.raises(WireError, match=f"{LIMIT} are allowed"):
            Connection().receive_data(data[:50])

    @pytest.mark.parametrize("version", [0, 1])
    def test_registration_lifts_the_limit(self, version: int) -> None:
        client, server = sender(version), Connection()
        server.receive_data(client.send(client.request(m.RegisterTMRequest("2.6.0", "app", "group"))))
        server.mark_registered()
        long = m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * LIMIT)
        for _ in range(3):
            (frame,) = server.receive_data(client.send(client.request(long)))
            assert frame.body == long

    def test_what_comes_with_a_registration_is_not_held_to_it(self) -> None:
        client, server = sender(), Connection()
        hello = client.send(client.request(m.RegisterRMRequest("2.6.0", "app", "group", None, "r" * 1000)))
        long = client.send(client.request(m.BranchRegisterRequest("x", BranchType.AT, "r", "k" * LIMIT)))
        assert len(server.receive_data(hello + long)) == 2

    def test_a_client_has_no_limit_but_the_protocols(self) -> None:
        server, client = sender(), Connection(max_unregistered_bytes=None)
        long = m.BranchCommitRequest("x", 1, BranchType.TCC, "r", "d" * 1_000_000)
        assert [frame.body for frame in client.receive_data(server.send(server.request(long)))] == [long]
        with pytest.raises(WireError, match=str(MAX_FRAME_LENGTH)):
            client.receive_data(bytes.fromhex("dada01 00800001 0010 00 01 00 00000001"))
