"""Ways to break the coordinator, each a replacement in its source. The simulation must see every one of them.

A mutation whose text is not found exactly once fails: the list follows the code. No entry leaves it
(`tests/simulation/mutations.txt`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`old` in src/troth/`path` becomes `new`."""

    name: str
    path: str
    old: str
    new: str


MUTATIONS: tuple[Mutation, ...] = (
    # ---- write, then act
    Mutation(
        "answers before the write",
        "server/engine.py",
        "        if writes:\n            await self._append(writes)\n",
        "        self._release(effects)\n        effects = []\n"
        "        if writes:\n            await self._append(writes)\n",
    ),
    Mutation(
        "forgets the effects that came without a write",
        "server/engine.py",
        "        self._release(effects)\n",
        "        if writes:\n            self._release(effects)\n",
    ),
    Mutation(
        "goes on after a failed write",
        "server/engine.py",
        "        await self.store.append(Batch(self._batch_number, self.ids.last, writes))\n",
        "        try:\n"
        "            await self.store.append(Batch(self._batch_number, self.ids.last, writes))\n"
        "        except Exception:\n"
        "            self._batch_number -= 1\n",
    ),
    Mutation(
        "does not write the decision",
        "core/deciding.py",
        "    out.writes.append(fx.MarkGlobal(tx.xid, tx.phase, cause, tx.rollback_only, tx.reason))\n",
        "",
    ),
    Mutation(
        "does not write a report",
        "core/actions.py",
        "    branch.application_data = event.application_data\n    out.writes.append(mark(tx, branch))\n",
        "    branch.application_data = event.application_data\n",
    ),
    Mutation(
        "does not write a vote",
        "core/actions.py",
        "        out.writes.append(fx.MarkGlobal(tx.xid, tx.phase, None, True))\n",
        "        pass\n",
    ),
    Mutation(
        "writes a batch in the wrong order",
        "server/engine.py",
        "            writes += decision.writes\n",
        "            writes[:0] = decision.writes\n",
    ),
    Mutation(
        "does not write that a branch is done",
        "core/calls.py",
        "            out.writes.append(fx.DropBranch(tx.xid, event.branch_id))\n",
        "            pass\n",
    ),
    Mutation(
        "does not write the end",
        "core/deciding.py",
        "    out.writes.append(fx.EndGlobal(tx.xid, tx.phase, cause, now, tx.reason, ended_branches(tx)))\n",
        "",
    ),
    Mutation(
        "gives ids again after a step of the clock",
        "server/engine.py",
        "        self.ids.skip_past(hot.last_id)\n",
        "",
    ),
    # ---- recovery
    Mutation(
        "forgets the locks at load",
        "core/cell.py",
        "                    self.locks.take(tx.xid, branch.branch_id, branch.keys, branch.lock_mode)\n"
        "                if tx.phase",
        "                    pass\n                if tx.phase",
    ),
    Mutation(
        "takes locks of committed branches at load",
        "core/cell.py",
        "                if tx.phase is not Phase.COMMITTING:\n                    self.locks.take(",
        "                if tx.phase is not None:\n                    self.locks.take(",
    ),
    Mutation(
        "does not repeat calls that were out at the crash",
        "core/cell.py",
        "                    branch.next_due_ms = tx.begin_ms  # its",
        "                    branch.next_due_ms = None  # its",
    ),
    Mutation(
        "does not schedule what it has loaded",
        "server/engine.py",
        "            self._scheduler.set(xid, due_ms(tx))\n\n    async def stop",
        "            pass\n\n    async def stop",
    ),
    Mutation(
        "lets a clock that was set back prolong what is open",
        "server/engine.py",
        "        self.clock.not_before(_latest_ms(hot.transactions))\n",
        "",
    ),
    Mutation(
        "does not ask the store for an outcome",
        "server/engine.py",
        "        outcome = await self.store.outcome(xid)\n",
        "        outcome = None\n",
    ),
    Mutation(
        "asks the store for what is still on its way there",
        "server/engine.py",
        "        await self._all_decided_is_durable()  # its",
        "        pass  # its",
    ),
    # ---- locks
    Mutation(
        "frees a row with the newest branch alone",
        "core/locks.py",
        "            if not hold.branches:\n",
        "            if True:\n",
    ),
    Mutation(
        "skips the lock check",
        "core/cell.py",
        "        conflicts = self.locks.conflicts(register.xid, register.keys, register.lock_mode)\n"
        "        if not conflicts:\n",
        "        conflicts = self.locks.conflicts(register.xid, register.keys, register.lock_mode)\n        if True:\n",
    ),
    Mutation(
        "grants a queued registration without looking at its other rows",
        "core/locks.py",
        "            if not self.conflicts(waiter.xid, waiter.keys, waiter.lock_mode, waiter.branch_id):\n",
        "            if True:\n",
    ),
    Mutation(
        "keeps the rows after a commit",
        "core/deciding.py",
        "    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())\n    if (all",
        "    if (all",
    ),
    Mutation(
        "frees the rows when the rollback is decided",
        "core/deciding.py",
        "    out.asks.extend(DenyWaiters(tx.xid, branch) for branch in tx.branches.values())\n",
        "    out.asks.extend(DenyWaiters(tx.xid, branch) for branch in tx.branches.values())\n"
        "    out.asks.extend(Free(tx.xid, branch) for branch in tx.branches.values())\n",
    ),
    Mutation(
        "keeps the rows of an undone branch",
        "core/calls.py",
        "    out.asks.append(Free(tx.xid, tx.branches[event.branch_id]))\n    drop_branch",
        "    drop_branch",
    ),
    Mutation(
        "tells everybody that rows are free",
        "core/cell.py",
        "                lockable = not self.locks.conflicts(event.xid, event.keys)\n",
        "                lockable = True\n",
    ),
    Mutation(
        "locks nothing",
        "server/inbound/seata_requests.py",
        "            keys = parse_lock_text(resource_id, text)\n        except LockTextError as error:\n"
        "            reply.send(answers.register_refusal",
        "            keys = parse_lock_text(resource_id, text) and ()\n        except LockTextError as error:\n"
        "            reply.send(answers.register_refusal",
    ),
    Mutation(
        "leaves waiting registrations in the queue at the decision",
        "core/deciding.py",
        "        out.asks.append(Unqueue(waiting.register))\n",
        "",
    ),
    # ---- decisions
    Mutation(
        "commits after the timeout",
        "core/machine.py",
        "    Row(OPEN, ev.Commit, when.expired, deciding.roll_back_for_timeout, ROLLING_BACK),\n",
        "",
    ),
    Mutation(
        "commits in spite of a vote",
        "core/machine.py",
        "    Row(OPEN, ev.Commit, when.voted_down, deciding.roll_back_for_vote, ROLLING_BACK),\n",
        "",
    ),
    Mutation(
        "commits with a failed branch",
        "core/machine.py",
        "    Row(OPEN, ev.Commit, when.phase_one_failed, deciding.roll_back_for_failed_branch, ROLLING_BACK),\n",
        "",
    ),
    Mutation(
        "has no timeout",
        "core/machine.py",
        "    Row(OPEN, ev.Due, when.expired, deciding.time_out, ROLLING_BACK),\n",
        "",
    ),
    Mutation(
        "takes a branch after the decision",
        "core/machine.py",
        "    *(Row(p, ev.Register, None, listeners.refuse_not_active, p) for p in Phase if p is not OPEN),\n",
        "    *(Row(p, ev.Register, None, do.admit, p) for p in (COMMITTING, ROLLING_BACK)),\n"
        "    *(Row(p, ev.Register, None, listeners.refuse_not_active, p) for p in Phase if p.ended or p is FORWARD),\n",
    ),
    # ---- phase two
    Mutation(
        "skips failed branches at rollback, as Seata does",
        "core/deciding.py",
        "    _decide(tx, cause, out, reason, untouched)\n    out.asks.extend(DenyWaiters(tx.xid, branch)",
        "    _decide(tx, cause, out, reason, untouched)\n"
        "    for failed in [b for b in tx.branches.values() if b.phase_one.value == 'failed']:\n"
        "        out.asks.append(Free(tx.xid, tx.branches.pop(failed.branch_id)))\n"
        "        out.writes.append(fx.DropBranch(tx.xid, failed.branch_id))\n"
        "    out.asks.extend(DenyWaiters(tx.xid, branch)",
    ),
    Mutation(
        "rolls back the oldest branch first",
        "core/due.py",
        "        tx.newest_of.setdefault(branch.resource_id, []).append(branch.branch_id)\n",
        "        tx.newest_of.setdefault(branch.resource_id, []).insert(0, branch.branch_id)\n",
    ),
    Mutation(
        "cancels TCC branches before newer ones",
        "core/due.py",
        "    return order is not Order.STRICT_REVERSE or _top(tx, tx.newest) is branch\n",
        "    return True\n",
    ),
    Mutation(
        "takes a failed phase two for done",
        "server/outbound/seata.py",
        "    result = RESULTS.get(status, CallResult.RETRY)\n    if result is CallResult.ONGOING",
        "    result = RESULTS.get(status, CallResult.DONE)\n"
        "    if result is CallResult.DONE:\n"
        "        return Answered(call.xid, call.branch_id, call.verb, call.attempt, result, None, worker)\n"
        "    if result is CallResult.ONGOING",
    ),
    Mutation(
        "does not ask again when a branch stays silent",
        "core/calls.py",
        "    plan(tx, branch.answer_due_ms, branch.branch_id)\n",
        "",
    ),
    Mutation(
        "does not ask again when a branch has failed",
        "core/calls.py",
        "branch.attempts, out)\n    plan(tx, branch.next_due_ms, branch.branch_id)\n",
        "branch.attempts, out)\n",
    ),
    Mutation(
        "takes a resource that nobody serves for done",
        "core/machine.py",
        "    Row(ROLLING_BACK, ev.Answered, when.no_channel, calls.await_channel, ROLLING_BACK),\n",
        "    Row(ROLLING_BACK, ev.Answered, when.no_channel, calls.undo_branch, ROLLING_BACK),\n",
    ),
    Mutation(
        "gives up a branch that refuses",
        "core/machine.py",
        "    Row(ROLLING_BACK, ev.Answered, when.refused, calls.freeze_branch, ROLLING_BACK),\n",
        "    Row(ROLLING_BACK, ev.Answered, when.refused, calls.undo_branch, ROLLING_BACK),\n",
    ),
    Mutation(
        "calls over connections that are gone",
        "server/inbound/seata_link.py",
        "            self._door.sessions.remove(self._channel)\n",
        "",
    ),
    Mutation(
        "loses its agenda at a restart",
        "core/cell.py",
        "            plan_anew(tx)\n",
        "",
    ),
    Mutation(
        "does not go on to the older branch",
        "core/calls.py",
        "    call_ready(tx, followers(tx, branch), now, out)\n    after_answer(tx, out)\n\n\ndef undo",
        "    after_answer(tx, out)\n\n\ndef undo",
    ),
    # ---- the truth
    Mutation(
        "tells a committer plainly that it is rolled back",
        "server/inbound/seata_answers.py",
        "    by_timeout = rolls and (commit_asked or standing.cause is Cause.TIMEOUT)\n",
        "    by_timeout = rolls and standing.cause is Cause.TIMEOUT\n",
    ),
    Mutation(
        "never answers those who wait for the first round",
        "core/listeners.py",
        "    if not count:\n        return\n",
        "    if count >= 0:\n        return\n",
    ),
    Mutation(
        "mixes up the children of a merged request",
        "server/waiters.py",
        "(self._ids[index],)",
        "(self._ids[-1 - index],)",
    ),
    Mutation(
        "answers a merged request in the wrong order",
        "server/waiters.py",
        "        answers = tuple(answer for answer in self._answers if answer is not None)\n",
        "        answers = tuple(answer for answer in reversed(self._answers) if answer is not None)\n",
    ),
    # ---- memory
    Mutation(
        "never forgets who waited for a resource",
        "core/cell.py",
        "self._starved.pop(event.resource_id, ())",
        "self._starved.get(event.resource_id, ())",
    ),
    Mutation(
        "never forgets an outcome",
        "core/cell.py",
        "if outcome.end_ms <= before_ms]",
        "if outcome.end_ms < 0]",
    ),
    Mutation(
        "keeps waiting registrations of a closed channel",
        "core/cell.py",
        "                    if self.locks.unqueue(register):",
        "                    if self.locks.is_queued(register):",
    ),
    # ---- AT, on the other end
    Mutation(
        "AT writes no undo row",
        "client/modes/at.py",
        "                yield from self._write_undo(local, branch_id, share)\n",
        "",
    ),
    Mutation(
        "AT locks nothing",
        "client/modes/at.py",
        "        locks = share.locks\n",
        "        locks = ''\n",
    ),
    Mutation(
        "AT keeps the undo rows of committed branches",
        "client/modes/at_phase_two.py",
        "            yield from query(dialect.delete_undo(len(group)), pairs)\n",
        "            del group\n",
    ),
    Mutation(
        "AT forgets the undo row without undoing",
        "client/modes/at_phase_two.py",
        "        yield from restorer.undo_statement(sql_undo_log)\n",
        "        del sql_undo_log\n",
    ),
    # ---- steps, messages, runs
    Mutation(
        "runs a step before its turn",
        "core/course.py",
        "            if seq in numbers and seq != branch.seq:\n",
        "            if False:\n",
    ),
    Mutation(
        "compensates the earlier step first",
        "core/course.py",
        "((ahead, behind) for behind, ahead in pairs) if rolls_back else pairs",
        "pairs",
    ),
    Mutation(
        "does not compensate a step that may have run",
        "core/deciding.py",
        "    never_came = not tx.course.forward or branch.branch_id in tx.course.held\n",
        "    never_came = True\n",
    ),
    Mutation(
        "compensates steps whose turn never came",
        "core/deciding.py",
        "    never_came = not tx.course.forward or branch.branch_id in tx.course.held\n",
        "    never_came = False\n",
    ),
    Mutation(
        "takes the answer to an action for that to its compensation",
        "core/guards.py",
        "        if asked is None or event.verb is not asked or (",
        "        if asked is None or (",
    ),
    Mutation(
        "lets a superseded attempt record",
        "core/machine.py",
        "    Row(OPEN, ev.Record, when.superseded, runs.answer_superseded, OPEN),\n",
        "",
    ),
    Mutation(
        "rolls back the late submit of a message",
        "core/guards.py",
        " and (tx.terms is None or rolls_back_in_time(tx))\n",
        "\n",
    ),
    Mutation(
        "asks nobody to go on with a run after a restart",
        "core/cell.py",
        "                _ask_when_loaded(tx, tx.branches[tx.course.runner])\n",
        "                tx.branches[tx.course.runner].next_due_ms = None\n",
    ),
    Mutation(
        "does not notice that a runner's connection is gone",
        "core/cell.py",
        "                todo.extend(ev.Lost(xid) for xid in self._runs.pop(event.channel, ()))\n",
        "                self._runs.pop(event.channel, None)\n",
    ),
    Mutation(
        "forgets at load what was recorded",
        "core/course.py",
        "            course.records.setdefault(branch.resource_id, branch.branch_id)\n",
        "            pass\n",
    ),
    Mutation(
        "does not ask the store for a name",
        "server/engine.py",
        "        xid = await self.store.find_gid(gid)\n",
        "        xid = None\n",
    ),
    Mutation(
        "drops the messages of a committed transaction",
        "core/modes/message.py",
        "    on_commit=Verb.ACTION,\n",
        "    on_commit=None,\n",
    ),
)
