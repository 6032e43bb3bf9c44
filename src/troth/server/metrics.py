"""What Prometheus scrapes. The hot path counts in plain integers; they become metrics only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from troth.core.effects import Settled
from troth.core.model import Cause, Phase
from troth.server.engine import Engine
from troth.server.inbound.seata import SeataDoor
from troth.server.inbound.seata_requests import RequestStats
from troth.server.outbound.seata import CallStats

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

__all__ = ["CONTENT_TYPE", "Metrics", "Outcomes"]


class Outcomes:
    """How transactions ended."""

    def __init__(self) -> None:
        self.committed = 0
        self.rolled_back = 0
        self.timed_out = 0
        self.lived_ms = 0

    def count(self, settled: Settled) -> None:
        """One more has ended."""
        self.lived_ms += settled.lived_ms
        if settled.phase is Phase.COMMITTED:
            self.committed += 1
        elif settled.cause is Cause.TIMEOUT:
            self.timed_out += 1
        else:
            self.rolled_back += 1


class Metrics(Collector):
    """One coordinator's numbers, in a registry of its own."""

    def __init__(
        self,
        engine: Engine,
        outcomes: Outcomes,
        requests: RequestStats,
        calls: CallStats,
        door: SeataDoor,
        *others: Collector,
    ) -> None:
        """`others` are shown beside."""
        self._engine = engine
        self._outcomes = outcomes
        self._requests = requests
        self._calls = calls
        self._door = door
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (self, *others):
            self._registry.register(collector)

    def render(self) -> bytes:
        """The text format, UTF-8."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing is promised before it is collected."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Everything, as it is now."""
        yield from self._transactions()
        yield from self._store()
        yield from self._phase_two()
        yield from self._doors()

    def _transactions(self) -> Iterable[Metric]:
        outcomes = self._outcomes
        ended = CounterMetricFamily("troth_transactions", "Global transactions that have ended", labels=["outcome"])
        ended.add_metric(["committed"], outcomes.committed)
        ended.add_metric(["rolled_back"], outcomes.rolled_back)
        ended.add_metric(["timed_out"], outcomes.timed_out)
        yield ended
        yield SummaryMetricFamily(
            "troth_transaction_seconds",
            "Life of global transactions, begin to end",
            count_value=outcomes.committed + outcomes.rolled_back + outcomes.timed_out,
            sum_value=outcomes.lived_ms / 1000,
        )
        stats = self._engine.stats
        yield CounterMetricFamily(
            "troth_transactions_begun", "Global transactions that were opened", value=stats.transactions_begun
        )
        yield GaugeMetricFamily(
            "troth_transactions_open", "Global transactions that have not ended", value=len(self._engine.transactions())
        )
        yield CounterMetricFamily("troth_branches", "Branches registered", value=self._requests.branches)
        yield CounterMetricFamily(
            "troth_lock_conflicts", "Registrations refused for rows of others", value=self._requests.lock_conflicts
        )
        yield GaugeMetricFamily("troth_locks_held", "Rows locked", value=self._engine.locks_held)
        yield GaugeMetricFamily("troth_locks_queued", "Registrations queued for rows", value=self._engine.locks_queued)

    def _store(self) -> Iterable[Metric]:
        stats = self._engine.stats
        yield CounterMetricFamily("troth_events", "Events decided", value=stats.events)
        yield CounterMetricFamily(
            "troth_events_refused", "Events left out because the store refused them", value=stats.events_refused
        )
        yield CounterMetricFamily("troth_store_commits", "Batches made durable", value=stats.store_commits)
        yield CounterMetricFamily("troth_store_writes", "Deltas in those batches", value=stats.store_writes)
        yield GaugeMetricFamily("troth_store_largest_batch", "Most deltas in one batch", value=stats.largest_batch)
        yield SummaryMetricFamily(
            "troth_store_commit_seconds",
            "Time to make a batch durable",
            count_value=stats.store_commits,
            sum_value=stats.store_seconds,
        )

    def _phase_two(self) -> Iterable[Metric]:
        calls = CounterMetricFamily("troth_calls", "Phase-two calls by how they ended", labels=["verb", "result"])
        for (verb, result), count in self._calls.results.items():
            calls.add_metric([verb.value, result.value], count)
        yield calls

    def _doors(self) -> Iterable[Metric]:
        door = self._door
        yield GaugeMetricFamily("troth_connections", "Open connections at the Seata port", value=door.connections)
        yield CounterMetricFamily(
            "troth_connections_refused", "Connections over the limit", value=door.connections_refused
        )
        yield CounterMetricFamily(
            "troth_begins_refused", "Begins refused at the door", value=self._requests.begins_refused
        )
        frames = CounterMetricFamily("troth_frames", "Seata frames", labels=["direction"])
        frames.add_metric(["in"], door.frames_in)
        frames.add_metric(["out"], door.frames_out)
        yield frames
