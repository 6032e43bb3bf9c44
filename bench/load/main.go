// Command load puts AT transactions on a coordinator that speaks Seata's binary protocol, and measures it.
//
// Every transaction is GlobalBegin, BranchRegister (AT, two row locks), GlobalCommit, each awaited; BranchCommit, phase two,
// is answered at once. It prints one report and exits with 1 if any answer was not the expected one.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

type options struct {
	addr         string
	connections  int
	inFlight     int
	seconds      float64
	transactions int64
	warmupS      float64
	stallS       float64
	conflict     int
	timeoutMs    int32
	resource     string
	who          client
	json         bool
}

// window is how long commits are measured, 0 when --transactions ends the run.
func (o options) window() time.Duration {
	if o.transactions > 0 {
		return 0
	}
	return time.Duration(o.seconds * float64(time.Second))
}

func (o options) stall() time.Duration { return time.Duration(o.stallS * float64(time.Second)) }

func (o options) check() error {
	switch {
	case o.connections < 1 || o.inFlight < 1:
		return fmt.Errorf("--connections and --in-flight must be at least 1")
	case o.transactions < 0 || o.transactions == 0 && o.seconds <= 0:
		return fmt.Errorf("--seconds or --transactions must be positive")
	case o.warmupS < 0 || o.stallS <= 0:
		return fmt.Errorf("--warmup-s must not be negative, --stall-s must be positive")
	case o.conflict < 0 || o.conflict == 1:
		return fmt.Errorf("--conflict needs at least 2 hot rows, because every transaction locks two")
	case o.timeoutMs < 1:
		return fmt.Errorf("--timeout-ms must be positive")
	}
	return nil
}

func parse(args []string) (options, error) {
	o := options{who: client{version: "2.6.0"}}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "load: AT transactions against a coordinator that speaks Seata's protocol.\n"+
			"Each is begin, one branch with two row locks, commit; phase two is answered at once.\n"+
			"Exit status: 0 measured, 1 an unexpected answer or a lost connection, 2 wrong usage.\n\n")
		f.PrintDefaults()
	}
	timeoutMs := 0
	f.StringVar(&o.addr, "addr", "127.0.0.1:8091", "the coordinator's `HOST:PORT`")
	f.IntVar(&o.connections, "connections", 8, "TCP connections, each registered as TM and as RM")
	f.IntVar(&o.inFlight, "in-flight", 8, "transactions at a time on each connection")
	f.Float64Var(&o.seconds, "seconds", 5, "length of the measured window in seconds")
	f.Int64Var(&o.transactions, "transactions", 0, "measure this many transactions instead of a length of time")
	f.Float64Var(&o.warmupS, "warmup-s", 1, "seconds of load before the window")
	f.Float64Var(&o.stallS, "stall-s", 30, "give a connection up that hears nothing expected for so many seconds")
	f.IntVar(&o.conflict, "conflict", 0, "lock two of `N` hot rows instead of rows of one's own; refusals are retried every 10 ms, 30 times")
	f.IntVar(&timeoutMs, "timeout-ms", 60000, "timeout of each global transaction in milliseconds")
	f.StringVar(&o.resource, "resource", "jdbc:mysql://127.0.0.1:3306/bench", "resource `ID` the branches belong to")
	f.StringVar(&o.who.application, "application", "bench", "application id to register with")
	f.StringVar(&o.who.group, "group", "default_tx_group", "transaction service group to register with")
	f.BoolVar(&o.json, "json", false, "print one JSON object instead of text")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	o.timeoutMs = int32(timeoutMs)
	return o, o.check()
}

// measure connects, runs all connections to their end and adds up what they counted.
func measure(r *run) (*tally, error) {
	connections := make([]*connection, r.connections)
	for i := range connections {
		c, err := dial(r, i)
		if err != nil {
			return nil, fmt.Errorf("connection %d to %s: %w", i+1, r.addr, err)
		}
		connections[i] = c
	}
	r.budget.Store(r.transactions)
	r.clockZero = time.Now().Add(time.Duration(r.warmupS * float64(time.Second)))
	var group sync.WaitGroup
	for _, c := range connections {
		group.Add(1)
		go func() {
			defer group.Done()
			c.serve()
		}()
	}
	group.Wait()
	total := &tally{}
	for _, c := range connections {
		total.merge(&c.tally)
	}
	return total, nil
}

func main() {
	o, err := parse(os.Args[1:])
	if err == flag.ErrHelp {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(2)
	}
	r := &run{options: o}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupts
		r.abort.Store(true)
		<-interrupts
		os.Exit(130)
	}()
	total, err := measure(r)
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	if r.abort.Load() && len(total.errors) == 0 {
		total.fail("interrupted", "by a signal")
	}
	if total.Measured == 0 {
		total.fail("nothing_measured", "no commit was answered inside the window")
	}
	os.Exit(show(newReport(o, total), o.json))
}

// show prints the report and gives the exit status it deserves.
func show(result report, asJSON bool) int {
	if !asJSON {
		result.print(os.Stdout)
	} else if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		return 1
	}
	if len(result.Errors) > 0 {
		return 1
	}
	return 0
}
