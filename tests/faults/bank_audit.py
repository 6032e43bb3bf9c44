"""What three databases hold against what everybody was told. Reads only."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bank_databases import Database
from bank_settings import ACCOUNTS, AT_START


@dataclass
class Audit:
    """How the transfers of one run ended, by what was told; `unheard`: its program died before it was told."""

    transfers: int = 0
    committed: int = 0
    undone: int = 0
    unknown: int = 0
    unheard: int = 0
    wrong: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def read_journals(journals: list[Path]) -> dict[str, dict[str, Any]]:
    """All that was written about each transfer, by its id."""
    known: dict[str, dict[str, Any]] = {}
    for journal in journals:
        for line in journal.read_text().splitlines():
            note = json.loads(line)
            known.setdefault(note["id"], {}).update(note)
    return known


def audit(databases: dict[str, Database], journals: list[Path], prefix: str) -> Audit:
    """Hold the databases against the journals of the run whose transfers begin with `prefix`."""
    result = Audit()
    transfers = read_journals(journals)
    entries = {name: {row[0]: row[1:] for row in each.rows("SELECT * FROM entry")} for name, each in databases.items()}
    for transfer, note in transfers.items():
        _judge(result, transfer, note, entries)
    for bank, there in entries.items():
        strange = [transfer for transfer in there if transfer.startswith(prefix) and transfer not in transfers]
        result.wrong += [f"{transfer} is in {bank}, and nobody asked for it" for transfer in strange]
    _add_up(result, databases, entries)
    _judge_guards(result, databases, transfers)
    return result


def _judge(result: Audit, transfer: str, note: dict[str, Any], entries: dict[str, dict[str, tuple[int, int]]]) -> None:
    """Both rows or none; and what was told is true."""
    expected = {
        note["source"][0]: (note["source"][1], -note["amount"]),
        note["target"][0]: (note["target"][1], note["amount"]),
    }
    found = {bank: there[transfer] for bank, there in entries.items() if transfer in there}
    told = note.get("told", "unheard")
    result.transfers += 1
    if told in ("committed", "undone", "unknown", "unheard"):
        setattr(result, told, getattr(result, told) + 1)
    else:
        result.wrong.append(f"{transfer}: {told}: {note['why']}")
    result.reasons[(note.get("why") or "")[:60]] += 1
    if found not in ({}, expected):
        result.wrong.append(f"{transfer} (told {told}) is half done: {found}, not {expected}: {note}")
    elif told == "committed" and not found:
        result.wrong.append(f"{transfer} was told committed and is not there: {note}")
    elif told == "undone" and found:
        result.wrong.append(f"{transfer} was told undone and is there: {note}")


def _add_up(result: Audit, databases: dict[str, Database], entries: dict[str, dict[str, tuple[int, int]]]) -> None:
    """Each balance is what its entries make of it, and no money came or went."""
    total = 0
    for bank, database in databases.items():
        expected = dict.fromkeys(range(1, ACCOUNTS + 1), AT_START)
        for account, delta in entries[bank].values():
            expected[account] += delta
        found = {int(account): int(money) for account, money in database.rows("SELECT id, balance FROM account")}
        total += sum(found.values())
        wrong = {n: (found.get(n), money) for n, money in expected.items() if found.get(n) != money}
        if wrong or len(found) != ACCOUNTS:
            result.wrong.append(f"{bank}: account: (balance, sum of its entries): {wrong}")
    if total != len(databases) * ACCOUNTS * AT_START:
        result.wrong.append(f"the sum over all banks is {total}, not {len(databases) * ACCOUNTS * AT_START}")


def _judge_guards(result: Audit, databases: dict[str, Database], transfers: dict[str, dict[str, Any]]) -> None:
    """A guard row keeps a late phase one out; one for a transfer that is committed would be a lie."""
    committed = {note.get("xid") for note in transfers.values() if note.get("told") == "committed"}
    for bank, database in databases.items():
        for xid, status in database.rows("SELECT xid, log_status FROM undo_log"):
            if status == 0 or xid in committed:
                result.wrong.append(f"{bank} has an undo row of {xid} with log_status {status}")
