package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// coordinator is a small one for these tests: it keeps no state but what an answer needs, and misbehaves on demand.
type coordinator struct {
	listener     net.Listener
	mu           sync.Mutex
	next         int64 // for transaction and branch ids
	registered   int
	phaseTwo     int               // answers to BranchCommit
	held         map[string]string // "table row" -> xid, when rows are locked
	misbehave    func(code int16, n int) fault
	phaseTwoLast bool          // after the answer to the commit instead of before it
	seen         map[int16]int // requests so far, by type
}

type fault int

const (
	none fault = iota
	failed
	wrongID
	wrongType
	silent
	twice
	forget
	hangUp
)

func serve(t *testing.T, tc *coordinator) *coordinator {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tc.listener, tc.held, tc.seen = listener, map[string]string{}, map[int16]int{}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go tc.talk(conn)
		}
	}()
	return tc
}

func (tc *coordinator) talk(conn net.Conn) {
	defer conn.Close()
	buf, chunk, w, keys := []byte{}, make([]byte, 64<<10), &writer{}, map[string]string{}
	for {
		n, err := conn.Read(chunk)
		if err != nil {
			return
		}
		buf = append(buf, chunk[:n]...)
		for {
			f, size, err := nextFrame(buf)
			if err != nil || size == 0 {
				break
			}
			if !tc.answer(w, f, keys) {
				return
			}
			buf = buf[size:]
		}
		if _, err := conn.Write(w.buf); err != nil {
			return
		}
		w.buf = w.buf[:0]
	}
}

func (tc *coordinator) answer(w *writer, f frame, keys map[string]string) bool {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	id, bad := f.id, none
	if tc.misbehave != nil && f.kind == kindRequest {
		tc.seen[f.code]++
		bad = tc.misbehave(f.code, tc.seen[f.code])
	}
	switch bad {
	case silent:
		return true
	case hangUp:
		return false
	case wrongID:
		id += 1 << 20
	case wrongType:
		f.code = typeGlobalRollback
	}
	body := reader{buf: f.body}
	switch {
	case f.kind == kindPing:
		w.heartbeat(kindPong, f.id)
	case f.code == typeBranchCommitResult:
		tc.phaseTwo++
	case f.code == typeRegisterTM, f.code == typeRegisterRM:
		tc.registered++
		tc.reply(w, id, f.code+1, func() { w.b1(1); w.s2("2.6.0") })
	case f.code == typeGlobalBegin:
		tc.next++
		xid := fmt.Sprintf("127.0.0.1:8091:%d", tc.next)
		tc.result(w, id, f.code+1, bad == failed, 1, func() { w.s2(xid); w.s2("") })
	case f.code == typeBranchRegister:
		tc.branchRegister(w, id, &body, bad, keys)
	case f.code == typeGlobalCommit, f.code == typeGlobalRollback:
		tc.globalEnd(w, id, f.code, string(body.s2()), bad, keys)
	}
	return true
}

func (tc *coordinator) branchRegister(w *writer, id int32, body *reader, bad fault, keys map[string]string) {
	xid := string(body.s2())
	body.b1()
	body.s2()
	rows := strings.Split(strings.TrimPrefix(string(body.s4()), "bench:"), ",")
	for _, row := range rows {
		if holder := tc.held[row]; holder != "" && holder != xid {
			tc.result(w, id, typeBranchRegisterResult, true, codeLockConflict, func() { w.b8(0) })
			return
		}
	}
	for _, row := range rows {
		tc.held[row] = xid
	}
	tc.next++
	branchID := tc.next
	keys[xid] = fmt.Sprint(branchID)
	tc.result(w, id, typeBranchRegisterResult, bad == failed, 15, func() { w.b8(branchID) })
}

func (tc *coordinator) globalEnd(w *writer, id int32, code int16, xid string, bad fault, keys map[string]string) {
	for row, holder := range tc.held {
		if holder == xid {
			delete(tc.held, row)
		}
	}
	status := byte(statusCommitted)
	if code == typeGlobalRollback || bad == failed {
		status = statusRollbacked
	}
	phaseTwo := func() {
		var branchID int64
		fmt.Sscan(keys[xid], &branchID)
		w.open(kindRequest, int32(branchID))
		w.b2(typeBranchCommit)
		w.s2(xid)
		w.b8(branchID)
		w.b1(branchTypeAT)
		w.s2("jdbc:bench")
		w.s4("")
		w.close()
	}
	wanted := status == statusCommitted && bad != forget
	if wanted && !tc.phaseTwoLast {
		phaseTwo()
	}
	tc.result(w, id, code+1, false, 0, func() { w.b1(status) })
	if wanted && tc.phaseTwoLast {
		phaseTwo()
	}
	if bad == twice {
		phaseTwo()
	}
}

func (tc *coordinator) reply(w *writer, id int32, code int16, fields func()) {
	w.open(kindAnswer, id)
	w.b2(code)
	fields()
	w.close()
}

func (tc *coordinator) result(w *writer, id int32, code int16, failed bool, exception byte, fields func()) {
	tc.reply(w, id, code, func() {
		if failed {
			w.b1(0)
			w.s2("no")
			w.b1(exception)
		} else {
			w.b1(resultSuccess)
			w.b1(0)
		}
		fields()
	})
}

// await polls until the condition is met, at most two seconds.
func (tc *coordinator) await(condition func() bool) bool {
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		tc.mu.Lock()
		met := condition()
		tc.mu.Unlock()
		if met {
			return true
		}
	}
	return false
}

func load(t *testing.T, tc *coordinator, args ...string) (*tally, report) {
	t.Helper()
	o, err := parse(append([]string{"--addr", tc.listener.Addr().String(), "--resource", "jdbc:bench",
		"--connections", "3", "--in-flight", "4", "--warmup-s", "0", "--stall-s", "0.3"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	total, err := measure(&run{options: o})
	if err != nil {
		t.Fatal(err)
	}
	return total, newReport(o, total)
}

func TestEveryTransactionIsCountedOnce(t *testing.T) {
	for _, last := range []bool{true, false} {
		tc := serve(t, &coordinator{phaseTwoLast: last})
		total, r := load(t, tc, "--transactions", "500")
		if len(total.errors) > 0 {
			t.Fatal(total.samples)
		}
		if r.Transactions != 500 || r.PhaseTwoTotal != 500 || r.CommittedTotal != 500 || r.BegunTotal != 500 {
			t.Errorf("%+v", r)
		}
		if !tc.await(func() bool { return tc.phaseTwo == 500 && tc.registered == 6 }) {
			t.Errorf("the coordinator heard %d phase-two answers, %d registrations", tc.phaseTwo, tc.registered)
		}
		if r.TxPerSecond <= 0 || r.WholePerSecond <= 0 || r.P50Ms > r.P99Ms || r.P99Ms > r.MaxMs || r.MaxMs <= 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestWarmUpIsNotMeasured(t *testing.T) {
	total, r := load(t, serve(t, &coordinator{}), "--seconds", "0.2", "--warmup-s", "0.2")
	if len(total.errors) > 0 || r.Seconds != 0.2 || r.Transactions == 0 || r.CommittedTotal <= r.Transactions {
		t.Errorf("%+v", r)
	}
	if r.PhaseTwoTotal != r.CommittedTotal {
		t.Errorf("%d of %d phase two", r.PhaseTwoTotal, r.CommittedTotal)
	}
}

func TestHotRowsConflictAndStillCommit(t *testing.T) {
	total, r := load(t, serve(t, &coordinator{}), "--transactions", "100", "--conflict", "4", "--stall-s", "2")
	if len(total.errors) > 0 || r.Conflicts == 0 || r.Transactions+r.GivenUp != 100 {
		t.Errorf("%+v", r)
	}
}

func TestWhatIsNotExpectedIsAnError(t *testing.T) {
	on := func(which int16, bad fault) func(int16, int) fault {
		return func(code int16, n int) fault {
			if code == which && n > 30 && n <= 35 {
				return bad
			}
			return none
		}
	}
	cases := []struct {
		kind  string
		fault func(int16, int) fault
	}{
		{"begin", on(typeGlobalBegin, failed)},
		{"branch_register", on(typeBranchRegister, failed)},
		{"commit", on(typeGlobalCommit, failed)},
		{"answer_unasked", on(typeGlobalCommit, wrongID)},
		{"answer_type", on(typeGlobalBegin, wrongType)},
		{"request_unanswered", on(typeGlobalCommit, silent)},
		{"phase_two_unexpected", on(typeGlobalCommit, twice)},
		{"phase_two_missing", on(typeGlobalCommit, forget)},
		{"connection", on(typeGlobalBegin, hangUp)},
	}
	for _, c := range cases {
		t.Run(c.kind, func(t *testing.T) {
			total, r := load(t, serve(t, &coordinator{misbehave: c.fault}), "--transactions", "100")
			if total.errors[c.kind] == 0 || r.Errors[c.kind] == 0 || show(r, false) != 1 {
				t.Errorf("errors %v", total.errors)
			}
		})
	}
}

func TestFramesAreSeatasOwn(t *testing.T) {
	// Written by Seata 2.6.0's codec.
	w := &writer{}
	w.register(1003, client{"2.6.0", "peer-app", "default_tx_group"}, "", "")
	w.register(1011, client{"2.6.0", "peer-app", "default_tx_group"}, "", "jdbc:mysql://127.0.0.1:3306/seata_bank")
	w.globalBegin(1019, 60000, "createOrder(java.lang.String,int)")
	w.branchDone(1225, typeBranchCommitResult, "192.0.2.7:8091:2612345678901234567", 2612345678901234999, branchCommitted)
	w.heartbeat(kindPing, 1001)
	golden := "dada01000000370010000100000003eb00650005322e362e300008706565722d617070001064656661756c745f74785f67726f75700000" +
		"dada01000000610010000100000003f300670005322e362e300008706565722d617070001064656661756c745f74785f67726f75700000000000" +
		"266a6462633a6d7973716c3a2f2f3132372e302e302e313a333330362f73656174615f62616e6b" +
		"dada01000000390010000100000003fb00010000ea6000216372656174654f72646572286a6176612e6c616e672e537472696e672c696e7429" +
		"dada01000000410010010100000004c90004010000223139322e302e322e373a383039313a32363132333435363738393031323334353637" +
		"2440ea8ddd6f4d3705" +
		"dada01000000100010030100000003e9"
	if got := hex.EncodeToString(w.buf); got != golden {
		t.Errorf("\n%s\n%s", got, golden)
	}
}

func TestHostileFramesAreRefused(t *testing.T) {
	for _, text := range []string{
		"dadb0100000010001003010000000000", "dada0200000010001003010000000000", "dada01ffffffff001003010000000000",
		"dada0100000010001100010000000000", "dada0100000010000f00010000000000", "dada0100000010001000010000000000",
		"dada01000000120010010200000000000001", "dada01000000120010010101000000000001",
	} {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := nextFrame(raw); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestPercentilesAreAtMostOnePercentHigh(t *testing.T) {
	h := &histogram{}
	for us := 1; us <= 100_000; us++ {
		h.add(time.Duration(us) * time.Microsecond)
	}
	for _, q := range []float64{0.01, 0.5, 0.99, 1} {
		if got, want := h.quantileMs(q), q*100; got < want || got > want*1.01 {
			t.Errorf("quantile %v: %v ms, not %v", q, got, want)
		}
	}
}

func TestWholeRateEndsWhenNinetyNinePercentAreDone(t *testing.T) {
	total := &tally{Measured: 100}
	for i := 0; i < 99; i++ {
		total.phaseTwoDone(time.Duration(i) * 10 * time.Millisecond)
	}
	total.phaseTwoDone(time.Minute)
	if got := total.wholePerSecond(); got < 100 || got > 101.1 {
		t.Errorf("%v per second", got)
	}
}
