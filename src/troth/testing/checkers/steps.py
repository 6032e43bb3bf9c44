"""Steps, messages and runs: all of it or none of it, in its order, and told only by whoever has the run."""

from __future__ import annotations

from types import MappingProxyType

from troth.core.effects import AddBranch, Call, Write
from troth.core.model import BranchType, Cause, Phase, PhaseOne, Verb
from troth.testing.checkers.checker import Checker
from troth.testing.ledger import Entry, LedgerBranch

_CALLED_IN = MappingProxyType(
    {Verb.COMMIT: (Phase.COMMITTING, Phase.COMMITTED), Verb.ROLLBACK: (Phase.ROLLING_BACK, Phase.ROLLED_BACK)}
)


class Steps(Checker):
    """Judges each call when it is made, each record when it is durable, and every service at the end."""

    name = "steps"

    def step_is_called(self, call: Call) -> None:
        entry = self.world.ledger.entries.get(call.xid)
        branch = None if entry is None else entry.ever.get(call.branch_id)
        if entry is None or branch is None:
            self.complain(f"{call.branch_id} of {call.xid} is called, but was never durable")
            return
        if entry.cause is Cause.OPERATOR:
            return
        what = f"{call.verb.value} of {call.branch_id} in {call.xid}"
        wanted = _CALLED_IN.get(call.verb)
        if call.branch_type is BranchType.MESSAGE:
            wanted = _CALLED_IN[Verb.COMMIT]
        if wanted is not None:
            self.check(entry.phase in wanted, f"{what}, which is durably {entry.phase}")
        else:
            self.check(call.verb is Verb.ASK or entry.phase is not Phase.OPEN, f"{what}, which is not submitted")
        if call.branch_type is BranchType.SAGA:
            self._in_order(entry, branch, call, what)

    def _in_order(self, entry: Entry, branch: LedgerBranch, call: Call, what: str) -> None:
        steps = {other.seq: other for other in entry.ever.values() if other.branch_type is BranchType.SAGA}
        before = [steps[seq] for seq in branch.after if seq in steps]
        waits = [other.seq for other in before if other.phase_one is not PhaseOne.DONE]
        self.check(not waits, f"{what}, whose turn had not come: {waits} have not run")
        if call.verb is Verb.ROLLBACK:
            live = entry.branches.values()
            later = [other.seq for other in live if branch.seq in other.after and other.branch_type is BranchType.SAGA]
            self.check(not later, f"{what}, before {later}, which came after it")

    def writes(self, write: Write) -> None:
        if not isinstance(write, AddBranch) or write.branch_type is not BranchType.RECORD:
            return
        entry = self.world.ledger.entries.get(write.xid)
        data = write.application_data or ""
        if entry is None:
            return
        known = [b for b in entry.ever.values() if b.branch_type is BranchType.RECORD]
        again = any(branch.resource_id == write.resource_id for branch in known)
        self.check(not again, f"{write.resource_id} is recorded a second time in {write.xid}")
        if "/" not in data:
            return
        (runner,) = [branch for branch in entry.ever.values() if branch.branch_type is BranchType.RUNNER]
        holder = f"{runner.epoch}/{runner.client_id}"
        self.check(data == holder, f"{data} has recorded {write.resource_id} in {write.xid}, but {holder} has the run")

    async def finish(self) -> None:
        ledger, services = self.world.ledger, self.world.steps.services
        for (xid, branch_id), service in sorted(services.items(), key=lambda item: item[0]):
            entry = ledger.entries[xid]
            if entry.cause is Cause.OPERATOR:
                continue
            who = f"{service.kind.name} {branch_id} of {xid}, which is {entry.phase}"
            committed = entry.phase is Phase.COMMITTED
            if service.kind is BranchType.SAGA:
                self.check(service.ran and not service.undone if committed else service.undone or not service.ran, who)
            elif service.kind is BranchType.MESSAGE:
                self.check(bool(service.delivered) is committed, f"{who}, was delivered {service.delivered} times")
            else:
                self.check(service.confirmed is committed and service.undone is not committed, who)
        for entry in ledger.entries.values():
            if entry.phase is Phase.COMMITTED:
                self._all_done(entry)
        for xid, sent in sorted(self.world.steps.senders.items()):
            entry = ledger.entries[xid]
            if sent:
                self.check(entry.cause is not Cause.TIMEOUT, f"the sender of {xid} has committed, {xid} has timed out")
            else:
                self.check(entry.phase is not Phase.COMMITTED, f"{xid} is committed, but its sender is not")

    def _all_done(self, entry: Entry) -> None:
        """Also the steps that nobody ever called."""
        for branch_id, branch in entry.ever.items():
            if branch.planned and branch.branch_type in (BranchType.SAGA, BranchType.MESSAGE):
                called = (entry.xid, branch_id) in self.world.steps.services
                self.check(called, f"{branch_id} of {entry.xid} was never called, but {entry.xid} is committed")
