"""DTM's requests and results: what is read, what is refused and by which words."""

import json

import msgspec
import pytest

from troth.wire.dtm import branches, custom, messages, results, rpc, views


def trans(**fields: object) -> messages.Trans:
    return messages.decode_trans(json.dumps({"gid": "g", "trans_type": "saga", **fields}).encode())


class TestTrans:
    def test_null_is_the_same_as_leaving_it_out(self) -> None:
        # Go's clients write nil slices and maps as null
        sent = trans(steps=None, payloads=None, branch_headers=None, custom_data=None, wait_result=None)
        assert sent == trans()
        assert sent.options == messages.Options(concurrent=False)

    def test_what_is_unknown_is_ignored(self) -> None:
        assert trans(whatever={"a": [1]}) == trans()

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b'"x"', b'{"gid": 1}', b'{"steps": "x"}', b"\xff\xfe", b'{"gid":"\xff"}']
    )
    def test_anything_else_is_bad_input(self, body: bytes) -> None:
        with pytest.raises(results.BadInput, match="the request is not what it should be"):
            messages.decode_trans(body)

    def test_options_are_written_without_what_is_not_set(self) -> None:
        options = trans(timeout_to_fail=3, concurrent=True, retry_limit=0, branch_headers={"a": "b"}).options
        assert json.loads(msgspec.json.encode(options)) == {
            "timeout_to_fail": 3,
            "concurrent": True,
            "branch_headers": {"a": "b"},
        }


class TestGid:
    def test_line_breaks_and_semicolons_are_taken_out(self) -> None:
        assert messages.clean_gid("a\r\nb;c") == "abc"

    @pytest.mark.parametrize("gid", [None, "", ";", "\r\n", "x" * 4097, "é" * 2049, "\ud800"])
    def test_empty_long_or_no_text(self, gid: str | None) -> None:
        with pytest.raises(results.BadInput):
            messages.clean_gid(gid)

    def test_the_longest_and_the_oddest_pass(self) -> None:
        assert messages.clean_gid("x" * 4096) == "x" * 4096
        assert messages.clean_gid("a\0b'\"\\ü") == "a\0b'\"\\ü"


class TestRegistration:
    def test_a_flat_object_of_texts(self) -> None:
        body = b'{"gid":"g;","trans_type":"tcc","branch_id":"01","data":"{}","confirm":"http://c","cancel":"http://d"}'
        found = messages.decode_registration(body)
        assert (found.gid, found.trans_type, found.branch_id, found.payload) == ("g", "tcc", "01", b"{}")
        assert found.data == {"confirm": "http://c", "cancel": "http://d"}

    def test_a_number_is_refused_as_by_dtm(self) -> None:
        with pytest.raises(results.BadInput):
            messages.decode_registration(b'{"gid":"g","branch_id":1}')


class TestVerdicts:
    @pytest.mark.parametrize(
        ("status", "body", "verdict"),
        [
            (200, b"", results.Verdict.DONE),
            (200, b'{"dtm_result":"FAILURE"}', results.Verdict.REFUSED),
            (200, b"ONGOING", results.Verdict.ONGOING),
            (200, b"FAILURE ONGOING", results.Verdict.ONGOING),
            (201, b"", results.Verdict.RETRY),
            (204, b"", results.Verdict.RETRY),
            (301, b"", results.Verdict.RETRY),
            (409, b"", results.Verdict.REFUSED),
            (409, b"ONGOING", results.Verdict.ONGOING),
            (425, b"FAILURE", results.Verdict.ONGOING),
            (404, b"", results.Verdict.RETRY),
            (500, b"FAILURE", results.Verdict.REFUSED),
            (502, b"", results.Verdict.RETRY),
        ],
    )
    def test_http_in_dtms_order(self, status: int, body: bytes, verdict: results.Verdict) -> None:
        assert results.http_verdict(status, body) is verdict

    @pytest.mark.parametrize(
        ("body", "verdict"),
        [
            (b'{"jsonrpc":"2.0","id":"1","result":{}}', results.Verdict.DONE),
            (b'{"error":null,"result":1}', results.Verdict.DONE),
            (b'{"error":{"code":-32901,"message":"no"}}', results.Verdict.REFUSED),
            (b'{"error":{"code":-32902}}', results.Verdict.ONGOING),
            (b'{"error":{"code":-1}}', results.Verdict.RETRY),
            (b'{"error":{}}', results.Verdict.RETRY),
            (b"<html>", results.Verdict.RETRY),
        ],
    )
    def test_json_rpc(self, body: bytes, verdict: results.Verdict) -> None:
        assert rpc.verdict_of(body)[0] is verdict


class TestCustomData:
    def test_one_after_the_other_unless_concurrent(self) -> None:
        assert custom.orders_of(trans(), 3) == [(), (0,), (1,)]
        assert custom.orders_of(trans(concurrent=True), 3) == [(), (), ()]
        text = json.dumps({"concurrent": True, "orders": {"2": [0, 1], "1": []}})
        assert custom.orders_of(trans(custom_data=text), 3) == [(), (), (0, 1)]

    def test_orders_without_concurrent_mean_nothing(self) -> None:
        assert custom.orders_of(trans(custom_data='{"orders":{"0":[1]}}'), 2) == [(), (0,)]

    @pytest.mark.parametrize(
        "orders", [{"0": [1], "1": [0]}, {"0": [0]}, {"5": [0]}, {"1": [7]}, {"1": [-1]}, {"x": [1]}, {"1": 0}]
    )
    def test_rings_and_steps_that_are_not_there(self, orders: object) -> None:
        text = json.dumps({"concurrent": True, "orders": orders})
        with pytest.raises(results.BadInput, match="custom_data"):
            custom.orders_of(trans(custom_data=text), 2)

    def test_delay(self) -> None:
        assert custom.delay_s_of(trans(trans_type="msg", custom_data='{"delay":10}')) == 10
        assert custom.delay_s_of(trans(trans_type="msg")) == 0
        assert custom.delay_s_of(trans(trans_type="saga", custom_data='{"delay":10}')) == 0
        for bad in ('{"delay":-1}', '{"delay":1e30}', '{"delay":"x"}', "x"):
            with pytest.raises(results.BadInput, match="custom_data"):
                custom.delay_s_of(trans(trans_type="msg", custom_data=bad))

    def test_the_run_of_a_workflow(self) -> None:
        assert custom.workflow_run(trans(custom_data='{"name":"w","data":"AAE="}')) == ("w", b"\0\1")
        assert custom.workflow_run(trans(custom_data='{"name":"w","data":null}')) == ("w", b"")
        for bad in ('{"name":""}', "", '{"name":"w","data":"?"}'):
            with pytest.raises(results.BadInput, match="custom_data"):
                custom.workflow_run(trans(custom_data=bad))


class TestBranches:
    @pytest.mark.parametrize("payload", [b"", b'{"amount":1}', b"\0", b"\xff\0\xfe", "ü".encode()])
    def test_any_payload_comes_back_whole_and_without_a_raw_nul(self, payload: bytes) -> None:
        text = branches.encode_branch(branches.url_branch("01", {"action": "http://a"}, payload))
        assert "\0" not in text
        assert branches.decode_branch(text).payload == payload

    def test_detail(self) -> None:
        detail = branches.Detail("http", "{}", "http://q", "{}", {"a": "b"}, 3000, 7)
        assert branches.decode_detail(branches.encode_detail(detail)) == detail
        assert branches.decode_detail(b"") == branches.Detail()


class TestGoodAnswers:
    def test_the_words_are_not_found_and_the_values_are_the_same(self) -> None:
        value = {"rollback_reason": "FAILURE \\FAILURE ONGOING"}
        body = views.encode_good(value)
        assert b"FAILURE" not in body
        assert b"ONGOING" not in body
        assert json.loads(body) == value

    def test_the_word_that_is_meant_stays(self) -> None:
        assert b'"FAILURE"' in views.encode_good({"dtm_result": "FAILURE"}, plain="FAILURE")
        assert b"FAILURE" not in views.encode_good({"dtm_result": "ONGOING", "message": "FAILURE"}, plain="ONGOING")


class TestJsonRpc:
    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"{", rpc.PARSE_ERROR),
            (b"[]", rpc.INVALID_REQUEST),
            (b"{}", rpc.INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","id":1,"method":"x"}', rpc.INVALID_REQUEST),
            (b'{"jsonrpc":"1.0","id":"1","method":"x"}', rpc.INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","method":"x"}', rpc.INVALID_REQUEST),
        ],
    )
    def test_what_is_no_request(self, body: bytes, code: int) -> None:
        answer = rpc.decode_request(body)
        assert isinstance(answer, rpc.RpcResponse)
        assert answer.error is not None
        assert answer.error.code == code

    def test_a_call_of_a_branch_carries_payload_and_names(self) -> None:
        body = json.loads(rpc.call_body("pay", b'{"amount":1}', "7", {"gid": "g", "op": "action"}))
        assert body == {
            "jsonrpc": "2.0",
            "method": "pay",
            "id": "7",
            "params": {"amount": 1, "gid": "g", "op": "action"},
        }
