"""What happens at DTM's doors and to the branches with URLs, counted under the names of DTM's own metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

from troth.core.effects import Settled
from troth.core.events import CallResult
from troth.core.model import Phase
from troth.server.outbound.url_calls import UrlCall

_NUMBERED = re.compile(r"\d{2}")
_KNOWN_PATH = re.compile(r"/api/(?:dtmsvr/)?([A-Za-z]{1,24}|json-rpc)")
_RESULTS = frozenset({CallResult.DONE, CallResult.REFUSED, CallResult.ONGOING})


class DtmStats(Collector):
    """Plain counters; they become metrics when somebody asks."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str], list[float]] = {}
        self._ended: dict[tuple[str, str], list[float]] = {}
        self._branches: dict[tuple[str, str, str, str], int] = {}

    def count_request(self, door: str, path: str, status: int, seconds: float) -> None:
        """One request was answered; only paths of known form make a series of their own."""
        match = _KNOWN_PATH.fullmatch(path)
        api = match[1] if match and status not in (404, 405) else "other"
        entry = self._requests.setdefault((door, api, "ok" if status < 400 else "fail"), [0, 0.0])
        entry[0] += 1
        entry[1] += seconds

    def count_end(self, settled: Settled) -> None:
        """A transaction has ended."""
        if settled.kind:
            status = "succeed" if settled.phase is Phase.COMMITTED else "failed"
            entry = self._ended.setdefault((settled.kind, status), [0, 0.0])
            entry[0] += 1
            entry[1] += settled.lived_ms / 1000

    def count_call(self, url_call: UrlCall, result: CallResult) -> None:
        """A call of a branch came back. Ids that clients make up have one series together."""
        branch_id = url_call.branch_id if _NUMBERED.fullmatch(url_call.branch_id) else "other"
        status = "ok" if result is CallResult.DONE else "fail"
        key = (url_call.kind, branch_id, url_call.op if len(url_call.op) <= 16 else "other", status)
        self._branches[key] = self._branches.get(key, 0) + 1

    def describe(self) -> Iterable[Metric]:
        """Nothing is promised before it is collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        info = GaugeMetricFamily("dtm_server_info", "What serves", labels=["gin_version", "grpc_version"])
        info.add_metric(["troth", "troth"], 1)
        yield info
        total = CounterMetricFamily("dtm_server_process", "Requests at DTM's doors", labels=["type", "api", "status"])
        took = SummaryMetricFamily("dtm_server_response_duration", "Seconds to answer them", labels=["type", "api"])
        for (door, api, status), (count, seconds) in self._requests.items():
            total.add_metric([door, api, status], count)
            if status == "ok":
                took.add_metric([door, api], count_value=int(count), sum_value=seconds)
        yield total
        yield took
        yield from self._transactions()

    def _transactions(self) -> Iterable[Metric]:
        ended = CounterMetricFamily(
            "dtm_transaction_process", "Transactions of DTM's kinds that have ended", labels=["model", "status"]
        )
        lived = SummaryMetricFamily("dtm_transaction_handled_duration", "Seconds they took", labels=["model"])
        kinds: dict[str, list[float]] = {}
        for (kind, status), (count, seconds) in self._ended.items():
            ended.add_metric([kind, status], count)
            entry = kinds.setdefault(kind, [0, 0.0])
            entry[0] += count
            entry[1] += seconds
        for kind, (count, seconds) in kinds.items():
            lived.add_metric([kind], count_value=int(count), sum_value=seconds)
        yield ended
        yield lived
        branches = CounterMetricFamily(
            "dtm_branch_process", "Calls of branches", labels=["model", "branchid", "branchtype", "status"]
        )
        for labels, count in self._branches.items():
            branches.add_metric(list(labels), count)
        yield branches
