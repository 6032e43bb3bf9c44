package main

import (
	"errors"
	"fmt"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	pingAfterIdle = 5 * time.Second // PROTOCOL: a client pings after 5 s without a write
	wakeUp        = time.Second     // the longest a quiet connection sleeps before it looks at the clock
	conflictPause = 10 * time.Millisecond
	conflictTries = 30 // as Seata's clients: 30 tries, 10 ms apart
	maxErrors     = 100
)

type client struct{ version, application, group string }

// run is what all connections share.
type run struct {
	options
	clockZero time.Time    // the measured window starts here, after the warm-up
	budget    atomic.Int64 // measured transactions that may still begin, with --transactions
	abort     atomic.Bool  // interrupted, or too many errors: everybody stops where they are
	errors    atomic.Int64
}

// now is the time since the window's start, negative while warming up.
func (r *run) now() time.Duration { return time.Since(r.clockZero) }

// mayBegin says whether another transaction may start, and takes it from the budget.
func (r *run) mayBegin(now time.Duration) bool {
	if now < 0 {
		return true
	}
	if window := r.window(); window > 0 {
		return now < window
	}
	return r.budget.Add(-1) >= 0
}

// measures says whether a transaction counts: its commit is answered inside the window, or it was paid from the budget.
func (r *run) measures(begun, now time.Duration) bool {
	if window := r.window(); window > 0 {
		return now >= 0 && now < window
	}
	return begun >= 0
}

type step byte

const (
	idle step = iota
	beginning
	registering
	pausing // a lock was held by another transaction: the same BranchRegister again after a pause
	committing
	rollingBack
)

// slot runs one transaction after the other, each waiting for its answers: "in flight" is the number of slots.
type slot struct {
	step     step
	id       int32 // of the request whose answer is awaited
	begun    time.Duration
	xid      string
	lockKey  string
	tries    int
	branchID int64
	branch   *branch
}

// branch outlives its slot's transaction, until its phase two and the commit's answer have both been seen, in any order.
// It is made when the commit is sent: a phase two before that is not expected.
type branch struct {
	xid                 string
	committed, measured bool
	phaseTwo            bool
	phaseTwoAt          time.Duration
}

type pause struct {
	until time.Duration
	slot  int
}

// connection is one TCP connection with the roles of TM and RM, driven by one goroutine: bytes in, slots forward, bytes out.
type connection struct {
	run       *run
	number    int
	conn      net.Conn
	in        []byte
	out       writer
	slots     []slot
	active    int
	branches  map[int64]*branch
	pauses    []pause // ordered, because all pauses are equally long
	nextRound int32
	nextRow   int64
	chance    *rand.Rand
	lastWrite time.Duration
	lastHeard time.Duration // last expected frame: a connection that hears none for --stall-s is given up
	tally     tally
}

// dial connects and registers both roles. Only the registrations are awaited one by one.
func dial(r *run, number int) (*connection, error) {
	conn, err := net.DialTimeout("tcp", r.addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &connection{run: r, number: number, conn: conn, slots: make([]slot, r.inFlight), branches: map[int64]*branch{},
		nextRound: 1, nextRow: firstRow(number), chance: rand.New(rand.NewSource(int64(number) + 1))}
	ip, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	stamp := strconv.FormatInt(time.Now().UnixMilli(), 10)
	extra := "ak=null\ndigest=" + r.who.group + "," + ip + "," + stamp + "\ntimestamp=" + stamp +
		"\nauthVersion=V4\nvgroup=" + r.who.group + "\nip=" + ip + "\n"
	if err := c.register(1, extra, "", typeRegisterTMResult); err != nil {
		return nil, errors.Join(fmt.Errorf("RegisterTM: %w", err), conn.Close())
	}
	if err := c.register(2, "", r.resource, typeRegisterRMResult); err != nil {
		return nil, errors.Join(fmt.Errorf("RegisterRM: %w", err), conn.Close())
	}
	return c, nil
}

// firstRow spaces the connections' rows 10^9 apart, and the runs 10^12, so that no two transactions meet by accident.
func firstRow(number int) int64 {
	return time.Now().Unix()%1_000_000*1_000_000_000_000 + int64(number)*1_000_000_000
}

func (c *connection) register(id int32, extra, resources string, expect int16) error {
	c.out.register(id, c.run.who, extra, resources)
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	for {
		f, size, err := nextFrame(c.in)
		if err != nil {
			return err
		}
		if size == 0 {
			if err := c.fill(); err != nil {
				return err
			}
			continue
		}
		identified := len(f.body) > 0 && f.body[0] == 1
		c.in = c.in[size:]
		if f.kind == kindAnswer && f.code == expect && f.id == id && identified {
			return nil
		}
		return fmt.Errorf("answered with kind %d, type %d, id %d, identified %t", f.kind, f.code, f.id, identified)
	}
}

// serve runs transactions until the window is over and everything it began has ended, or the run is aborted.
func (c *connection) serve() {
	c.lastHeard, c.lastWrite = c.run.now(), c.run.now()
	for i := range c.slots {
		c.start(i, c.run.now())
	}
	for !c.finished() {
		if err := c.turn(); err != nil {
			c.fail("connection", err.Error())
			break
		}
	}
	c.countOutstanding()
	if err := c.conn.Close(); err != nil {
		c.fail("close", err.Error())
	}
}

func (c *connection) finished() bool {
	if c.run.abort.Load() {
		return true
	}
	now := c.run.now()
	if now-c.lastHeard > c.run.stall() {
		return true
	}
	return c.active == 0 && len(c.branches) == 0
}

// turn sends what is due, waits for bytes (or the next due time) and handles every whole frame in them.
func (c *connection) turn() error {
	now := c.run.now()
	c.resumePaused(now)
	if now-c.lastWrite >= pingAfterIdle {
		c.out.heartbeat(kindPing, 0)
		c.tally.PingsSent++
	}
	if err := c.flush(); err != nil {
		return err
	}
	wait := wakeUp
	if len(c.pauses) > 0 {
		wait = min(wait, c.pauses[0].until-now)
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if err := c.fill(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		return err
	}
	return c.handleAll()
}

func (c *connection) handleAll() error {
	now, rest := c.run.now(), c.in
	for {
		f, size, err := nextFrame(rest)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		c.handle(f, now)
		rest = rest[size:]
	}
	c.in = c.in[:copy(c.in, rest)]
	return c.flush() // before finished() is asked: the last phase two must be answered, too
}

// fill appends what the socket has to c.in.
func (c *connection) fill() error {
	if cap(c.in)-len(c.in) < 32<<10 {
		c.in = append(make([]byte, 0, 2*cap(c.in)+64<<10), c.in...)
	}
	n, err := c.conn.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+n]
	return err
}

func (c *connection) flush() error {
	if len(c.out.buf) == 0 {
		return nil
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.run.stall())); err != nil {
		return err
	}
	_, err := c.conn.Write(c.out.buf)
	c.out.buf = c.out.buf[:0]
	c.lastWrite = c.run.now()
	return err
}

func (c *connection) resumePaused(now time.Duration) {
	for len(c.pauses) > 0 && c.pauses[0].until <= now {
		index := c.pauses[0].slot
		c.pauses = c.pauses[1:]
		c.askBranch(index)
	}
}

// countOutstanding turns everything that was never answered into errors, but not what an aborted run left behind.
func (c *connection) countOutstanding() {
	if c.run.abort.Load() {
		return
	}
	for _, s := range c.slots {
		if s.step != idle {
			c.fail("request_unanswered", fmt.Sprintf("step %d of %s, id %d", s.step, s.xid, s.id))
		}
	}
	for id, b := range c.branches {
		if b.committed && !b.phaseTwo {
			c.fail("phase_two_missing", fmt.Sprintf("branch %d of %s", id, b.xid))
		}
	}
}

func (c *connection) fail(kind, detail string) {
	c.tally.fail(kind, detail)
	if c.run.errors.Add(1) >= maxErrors {
		c.run.abort.Store(true)
	}
}
