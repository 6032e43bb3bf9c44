"""What happens at DTM's doors and to the branches with URLs, counted under the names of DTM's own metrics."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

from troth.core.effects import Settled
from troth.core.events import CallResult
from troth.core.model import Phase
from troth.server.outbound.url_calls import UrlCall

_NUMBERED = re.compile(r"\d{2}")
_KNOWN_PATH = re.compile(r"/api/(?:dtmsvr/)?([A-Za-z]{1,24}|json-rpc)")
_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Prometheus's own, as DTM has them."""


class _Times:
    """How long something took, by bucket."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self._seconds += seconds

    def show(self, family: HistogramMetricFamily, labels: list[str]) -> None:
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(labels, buckets, self._seconds)


class DtmStats(Collector):
    """Plain counters; they become metrics when somebody asks."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str], int] = {}
        self._took: dict[tuple[str, str], _Times] = {}
        self._ended: dict[tuple[str, str], int] = {}
        self._lived: dict[str, _Times] = {}
        self._branches: dict[tuple[str, str, str, str], int] = {}

    def count_request(self, door: str, path: str, status: int, seconds: float) -> None:
        """One request was answered; only paths of known form make a series of their own."""
        match = _KNOWN_PATH.fullmatch(path)
        api = match[1].lower() if match and status != 404 else "other"
        key = (door, api, "ok" if status < 400 else "fail")
        self._requests[key] = self._requests.get(key, 0) + 1
        self._took.setdefault((door, api), _Times()).add(seconds)

    def count_end(self, settled: Settled) -> None:
        """A transaction has ended."""
        if settled.kind:
            key = (settled.kind, "ok" if settled.phase is Phase.COMMITTED else "fail")
            self._ended[key] = self._ended.get(key, 0) + 1
            self._lived.setdefault(settled.kind, _Times()).add(settled.lived_ms / 1000)

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
        for request, count in self._requests.items():
            total.add_metric(list(request), count)
        yield total
        took = HistogramMetricFamily("dtm_server_response_duration", "Seconds to answer them", labels=["type", "api"])
        for answered, times in self._took.items():
            times.show(took, list(answered))
        yield took
        ended = CounterMetricFamily(
            "dtm_transaction_process", "Transactions of DTM's kinds that have ended", labels=["model", "status"]
        )
        for end, count in self._ended.items():
            ended.add_metric(list(end), count)
        yield ended
        lived = HistogramMetricFamily("dtm_transaction_handled_duration", "Seconds they took", labels=["model"])
        for kind, times in self._lived.items():
            times.show(lived, [kind])
        yield lived
        branches = CounterMetricFamily(
            "dtm_branch_process", "Calls of branches", labels=["model", "branchid", "branchtype", "status"]
        )
        for branch, count in self._branches.items():
            branches.add_metric(list(branch), count)
        yield branches
