package main

import (
	"fmt"
	"strconv"
	"time"
)

// One transaction, step by step: GlobalBegin, BranchRegister (AT, two row locks), GlobalCommit; beside it, phase two.

// start begins the next transaction of a slot, or lets the slot rest when the window is over.
func (c *connection) start(index int, now time.Duration) {
	s := &c.slots[index]
	wasActive := s.step != idle
	*s = slot{}
	if c.run.mayBegin(now) {
		s.step, s.begun, s.lockKey, s.id = beginning, now, c.lockKey(), c.newID(index)
		c.out.globalBegin(s.id, c.run.timeoutMs, "bench")
		c.tally.Begun++
	}
	if isActive := s.step != idle; isActive && !wasActive {
		c.active++
	} else if wasActive && !isActive {
		c.active--
	}
}

// newID makes a request id that tells its slot: id modulo the number of slots. Ids stay positive and start over after 2^31.
func (c *connection) newID(index int) int32 {
	count := int32(len(c.slots))
	if c.nextRound >= (1<<31-1)/count {
		c.nextRound = 1
	}
	id := c.nextRound*count + int32(index)
	c.nextRound++
	return id
}

// lockKey names two rows: new ones every time, or two of the --conflict hot rows.
func (c *connection) lockKey() string {
	first, second := c.nextRow, c.nextRow+1
	if hot := int64(c.run.conflict); hot > 0 {
		first = c.chance.Int63n(hot)
		second = (first + 1 + c.chance.Int63n(hot-1)) % hot
	} else {
		c.nextRow += 2
	}
	return "bench:" + strconv.FormatInt(first, 10) + "," + strconv.FormatInt(second, 10)
}

func (c *connection) handle(f frame, now time.Duration) {
	switch f.kind {
	case kindPing:
		c.out.heartbeat(kindPong, f.id)
	case kindPong:
		c.tally.PongsHeard++
	case kindAnswer:
		c.lastHeard = now
		c.answered(f, now)
	case kindRequest, kindOneWay:
		c.lastHeard = now
		c.asked(f, now)
	default:
		c.fail("frame_kind", fmt.Sprintf("kind %d, type %d", f.kind, f.code))
	}
}

// answered moves the slot that waits for this answer to its next step.
func (c *connection) answered(f frame, now time.Duration) {
	index := int(uint32(f.id) % uint32(len(c.slots)))
	s := &c.slots[index]
	if s.id != f.id || s.step == idle || s.step == pausing {
		c.fail("answer_unasked", fmt.Sprintf("type %d with id %d", f.code, f.id))
		return
	}
	body := reader{buf: f.body}
	switch {
	case s.step == beginning && f.code == typeGlobalBeginResult:
		c.begun(index, &body, now)
	case s.step == registering && f.code == typeBranchRegisterResult:
		c.registered(index, &body, now)
	case s.step == committing && f.code == typeGlobalCommitResult:
		c.committed(index, &body, now)
	case s.step == rollingBack && f.code == typeGlobalRollbackResult:
		c.rolledBack(index, &body, now)
	default:
		c.fail("answer_type", fmt.Sprintf("type %d in step %d", f.code, s.step))
		c.start(index, now)
	}
}

func (c *connection) begun(index int, body *reader, now time.Duration) {
	result, xid, _ := body.outcome(), string(body.s2()), body.s2()
	if body.bad || !result.success || xid == "" {
		c.refused("begin", result, body, now, index)
		return
	}
	c.slots[index].xid = xid
	c.askBranch(index)
}

func (c *connection) askBranch(index int) {
	s := &c.slots[index]
	s.step, s.id = registering, c.newID(index)
	s.tries++
	c.out.branchRegister(s.id, s.xid, c.run.resource, s.lockKey)
}

func (c *connection) registered(index int, body *reader, now time.Duration) {
	s := &c.slots[index]
	result, branchID := body.outcome(), body.b8()
	conflict := !result.success && (result.code == codeLockConflict || result.code == codeLockConflictNoRetry)
	if conflict && !body.bad && c.run.conflict > 0 {
		c.conflicted(index, result.code, now)
		return
	}
	if body.bad || !result.success || branchID == 0 || c.branches[branchID] != nil {
		c.refused("branch_register", result, body, now, index)
		return
	}
	s.branchID, s.branch = branchID, &branch{xid: s.xid}
	c.branches[branchID] = s.branch
	s.step, s.id = committing, c.newID(index)
	c.out.globalEnd(s.id, typeGlobalCommit, s.xid)
}

// conflicted waits and asks again, or rolls back: at once where the coordinator says that waiting is in vain.
func (c *connection) conflicted(index int, code byte, now time.Duration) {
	c.tally.Conflicts++
	s := &c.slots[index]
	if code == codeLockConflict && s.tries < conflictTries {
		s.step = pausing
		c.pauses = append(c.pauses, pause{until: now + conflictPause, slot: index})
		return
	}
	s.step, s.id = rollingBack, c.newID(index)
	c.out.globalEnd(s.id, typeGlobalRollback, s.xid)
}

func (c *connection) committed(index int, body *reader, now time.Duration) {
	s := &c.slots[index]
	result, status := body.outcome(), body.b1()
	if body.bad || !result.success || status != statusCommitted {
		delete(c.branches, s.branchID)
		result.msg += fmt.Sprintf(" (global status %d)", status)
		c.refused("commit", result, body, now, index)
		return
	}
	c.tally.Committed++
	s.branch.committed = true
	if c.run.measures(s.begun, now) {
		s.branch.measured = true
		c.tally.Measured++
		c.tally.lastCommit = now
		c.tally.latency.add(now - s.begun)
	}
	c.settle(s.branchID, s.branch)
	c.start(index, now)
}

func (c *connection) rolledBack(index int, body *reader, now time.Duration) {
	result, status := body.outcome(), body.b1()
	if body.bad || !result.success || status != statusRollbacked {
		result.msg += fmt.Sprintf(" (global status %d)", status)
		c.refused("rollback", result, body, now, index)
		return
	}
	c.tally.GivenUp++
	c.start(index, now)
}

// refused counts an answer that this load must never get, and goes on with the next transaction.
func (c *connection) refused(request string, result outcome, body *reader, now time.Duration, index int) {
	detail := fmt.Sprintf("success %t, exception code %d, %q", result.success, result.code, result.msg)
	if body.bad {
		detail = "the body ends too early"
	}
	c.fail(request, detail)
	c.start(index, now)
}

// asked serves the coordinator's requests: phase two, answered at once.
func (c *connection) asked(f frame, now time.Duration) {
	switch f.code {
	case typeBranchCommit, typeBranchRollback:
		c.phaseTwo(f, now)
	case typeUndoLogDelete: // one-way, and this load keeps no undo log
	default:
		c.fail("request_type", fmt.Sprintf("kind %d, type %d", f.kind, f.code))
	}
}

func (c *connection) phaseTwo(f frame, now time.Duration) {
	body := reader{buf: f.body}
	xid, branchID, branchType, resource, _ := string(body.s2()), body.b8(), body.b1(), string(body.s2()), body.s4()
	if body.bad || branchType != branchTypeAT || resource != c.run.resource {
		c.fail("phase_two_body", fmt.Sprintf("branch %d of %q: type %d, resource %q", branchID, xid, branchType, resource))
		return
	}
	if f.code == typeBranchRollback {
		c.fail("phase_two_rollback", fmt.Sprintf("branch %d of %s", branchID, xid))
		c.out.branchDone(f.id, typeBranchRollbackResult, xid, branchID, branchRollbacked)
		return
	}
	c.out.branchDone(f.id, typeBranchCommitResult, xid, branchID, branchCommitted)
	b := c.branches[branchID]
	if b == nil || b.xid != xid || b.phaseTwo {
		c.fail("phase_two_unexpected", fmt.Sprintf("branch %d of %s: not ours, or a second time", branchID, xid))
		return
	}
	b.phaseTwo, b.phaseTwoAt = true, now
	c.tally.PhaseTwo++
	c.settle(branchID, b)
}

// settle forgets a branch once its commit and its phase two are both known: they may arrive in either order.
func (c *connection) settle(branchID int64, b *branch) {
	if !b.committed || !b.phaseTwo {
		return
	}
	delete(c.branches, branchID)
	if b.measured {
		c.tally.phaseTwoDone(b.phaseTwoAt)
	}
}
