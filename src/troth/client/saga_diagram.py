"""Sagas as Mermaid flowcharts: of a definition, as its file says it, and of a run, as the coordinator keeps it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from troth.client.modes.saga import HAND_OVER_MARK
from troth.client.modes.saga_records import ABORT_MARK, UNDO_MARK
from troth.client.saga_source import Function, Source, called, calls_in, graphs_in, last_name

_STYLES: Final = (
    "classDef done fill:#d9f2e3,stroke:#2e7d4f,color:#14301f",
    "classDef failed fill:#f9d9d6,stroke:#b3261e,color:#410e0b",
    "classDef undone fill:#e8e4f3,stroke:#5b4b8a,color:#241b3d",
    "classDef human fill:#fde7b5,stroke:#9a6700,color:#3b2300",
)


@dataclass(slots=True)
class _Chart:
    """Lines of a flowchart, and the names of what is in it."""

    lines: list[str] = field(default_factory=lambda: ["flowchart TD"])
    count: int = 0

    def node(self, label: str, style: str = "", shape: str = '["{}"]') -> str:
        self.count += 1
        name = f"n{self.count}"
        suffix = f":::{style}" if style else ""
        self.lines.append(f"    {name}{shape.format(_escaped(label))}{suffix}")
        return name

    def edge(self, source: str, target: str, arrow: str = "-->") -> None:
        self.lines.append(f"    {source} {arrow} {target}")

    def text(self) -> str:
        used = [style for style in _STYLES if f":::{style.split()[1]}" in "\n".join(self.lines)]
        return "\n".join([*self.lines, *(f"    {style}" for style in used)]) + "\n"


def _escaped(label: str) -> str:
    return label.replace('"', "#quot;").replace("\n", " ")


# --- a definition ----------------------------------------------------------------------------------------------------


def of_definition(source: Source, name: str) -> str:
    """The saga `name` of a file: its steps in their order, what runs side by side, and the compensations.

    Raises KeyError: the file has no such saga.
    """
    saga = source.sagas[name]
    chart = _Chart()
    ends = [chart.node(name, shape='(["{}"])')]
    graph_calls: set[int] = set()
    for nodes in graphs_in(saga).values():
        graph_calls |= {id(call) for call, _, _ in nodes.values()}
    for group in _groups(source, saga, graph_calls):
        ends = _drawn(chart, source, group, ends)
    for nodes in graphs_in(saga).values():
        ends = _graph(chart, source, {key: (step, after) for key, (_, step, after) in nodes.items()}, ends)
    end = chart.node("end", shape='(["{}"])')
    for one in ends:
        chart.edge(one, end)
    return chart.text()


def _groups(source: Source, saga: Function, skipped: set[int]) -> list[list[str]]:
    """The names of the steps in order; those within one parallel(…) or gather(…) belong together."""
    together: dict[int, ast.Call] = {}
    for call in calls_in(saga):
        if last_name(call.func) in ("parallel", "aparallel", "gather"):
            together.update(
                {id(inner): call for inner in ast.walk(call) if isinstance(inner, ast.Call) and inner is not call}
            )
    groups: list[list[str]] = []
    of_call: dict[int, list[str]] = {}
    for call in calls_in(saga):
        name = called(call, source)
        if not name or id(call) in skipped:
            continue
        around = together.get(id(call))
        if around is None:
            groups.append([name])
        elif id(around) in of_call:
            of_call[id(around)].append(name)
        else:
            of_call[id(around)] = [name]
            groups.append(of_call[id(around)])
    return groups


def _drawn(chart: _Chart, source: Source, group: list[str], before: list[str]) -> list[str]:
    made = []
    for name in group:
        node = _step(chart, source, name)
        for one in before:
            chart.edge(one, node)
        made.append(node)
    return made


def _step(chart: _Chart, source: Source, name: str) -> str:
    node = chart.node(name, shape='[["{}"]]' if name in source.sagas else '["{}"]')
    step = source.steps.get(name)
    if step is not None and step.names_one:
        title = getattr(step.compensation, "name", "compensate")
        chart.edge(node, chart.node(title, "undone"), "-.->")
    return node


def _graph(
    chart: _Chart, source: Source, nodes: Mapping[str, tuple[str, frozenset[str]]], before: list[str]
) -> list[str]:
    drawn = {key: _step(chart, source, step) for key, (step, _) in nodes.items()}
    followed = set()
    for key, (_, after) in nodes.items():
        for other in sorted(after & drawn.keys()):
            chart.edge(drawn[other], drawn[key])
            followed.add(other)
        if not after:
            for one in before:
                chart.edge(one, drawn[key])
    return [node for key, node in drawn.items() if key not in followed]


# --- a run -----------------------------------------------------------------------------------------------------------


def of_run(shown: Mapping[str, Any]) -> str:
    """A run, from what the admin door shows of its transaction: how each step ended, in the order of recording."""
    chart = _Chart()
    last = chart.node(f"{shown['name']} {shown['xid']}", shape='(["{}"])')
    branches: Sequence[Mapping[str, Any]] = shown["branches"]
    for branch in branches:
        label = _label(branch)
        if label is None:
            continue
        node = chart.node(*label)
        chart.edge(last, node)
        last = node
    chart.edge(last, chart.node(str(shown["outcome"] or shown["status"]), shape='(["{}"])'))
    return chart.text()


def _label(branch: Mapping[str, Any]) -> tuple[str, str] | None:
    kind, key = branch["branch_type"], str(branch["resource_id"])
    if kind == "SAGA":
        return _handed_over(key.rpartition(":")[2], branch)
    if kind != "RECORD" or key.startswith(HAND_OVER_MARK):
        return None
    failed = branch["status"] == "PhaseOne_Failed"
    if key.startswith(UNDO_MARK):
        return f"{key[1:]} compensated", "undone"
    if key.startswith(ABORT_MARK):
        return f"{key[1:] or 'the body'} failed", "failed"
    return (f"{key} failed", "failed") if failed else (f"{key} done", "done")


def _handed_over(step: str, branch: Mapping[str, Any]) -> tuple[str, str]:
    """A compensation that is a branch of the coordinator's."""
    reason = str(branch["last_error"] or "to be compensated")
    if branch["status"] == "PhaseTwo_Rollbacked":
        return f"{step} compensated", "undone"
    if "needs-human" in reason:
        return f"compensate {step}: {reason[reason.index('needs-human') :]}", "human"
    return f"compensate {step}: {reason}", "undone"
