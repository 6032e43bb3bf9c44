package main

import (
	"fmt"
	"io"
	"math/bits"
	"sort"
	"time"
)

// histogram counts durations in microseconds: 128 buckets per power of two, so a percentile is at most 0.8 % too high.
type histogram struct {
	counts []int64
	total  int64
	max    uint64
}

const subBuckets = 128

func bucketOf(us uint64) int {
	if us < 2*subBuckets {
		return int(us)
	}
	shift := bits.Len64(us) - 8
	return shift*subBuckets + int(us>>shift)
}

func bucketTop(index int) uint64 {
	if index < 2*subBuckets {
		return uint64(index)
	}
	shift := index/subBuckets - 1
	return uint64(index-shift*subBuckets+1)<<shift - 1
}

func (h *histogram) add(d time.Duration) {
	us := uint64(max(d.Microseconds(), 0))
	h.counts = grown(h.counts, bucketOf(us))
	h.counts[bucketOf(us)]++
	h.total++
	h.max = max(h.max, us)
}

func (h *histogram) merge(other *histogram) {
	h.counts = sum(h.counts, other.counts)
	h.total += other.total
	h.max = max(h.max, other.max)
}

// quantileMs is the duration that a share q of all durations does not exceed, in milliseconds.
func (h *histogram) quantileMs(q float64) float64 {
	var seen int64
	for index, n := range h.counts {
		seen += n
		if n > 0 && float64(seen) >= q*float64(h.total) {
			return float64(min(bucketTop(index), h.max)) / 1000
		}
	}
	return 0
}

func grown(counts []int64, index int) []int64 {
	for len(counts) <= index {
		counts = append(counts, 0)
	}
	return counts
}

func sum(a, b []int64) []int64 {
	a = grown(a, len(b)-1)
	for i, n := range b {
		a[i] += n
	}
	return a
}

// tally is what one connection counted. "Measured" transactions are those whose commit was answered inside the window.
type tally struct {
	Begun       int64 // begins sent, with warm-up
	Committed   int64 // commits answered with Committed, with warm-up
	Measured    int64
	PhaseTwo    int64 // BranchCommit answered, with warm-up
	Conflicts   int64 // BranchRegister refused because another transaction holds a row
	GivenUp     int64 // transactions rolled back after too many conflicts
	PingsSent   int64
	PongsHeard  int64
	lastCommit  time.Duration // since the window's start
	latency     histogram
	doneByMilli []int64 // measured transactions whose phase two was answered, by millisecond since the window's start
	errors      map[string]int64
	samples     map[string]string // the first text of each kind of error
}

func (t *tally) fail(kind, detail string) {
	if t.errors == nil {
		t.errors, t.samples = map[string]int64{}, map[string]string{}
	}
	if t.errors[kind]++; t.errors[kind] == 1 {
		t.samples[kind] = detail
	}
}

func (t *tally) phaseTwoDone(at time.Duration) {
	ms := int(max(at.Milliseconds(), 0))
	t.doneByMilli = grown(t.doneByMilli, ms)
	t.doneByMilli[ms]++
}

func (t *tally) merge(other *tally) {
	t.Begun += other.Begun
	t.Committed += other.Committed
	t.Measured += other.Measured
	t.PhaseTwo += other.PhaseTwo
	t.Conflicts += other.Conflicts
	t.GivenUp += other.GivenUp
	t.PingsSent += other.PingsSent
	t.PongsHeard += other.PongsHeard
	t.lastCommit = max(t.lastCommit, other.lastCommit)
	t.latency.merge(&other.latency)
	t.doneByMilli = sum(t.doneByMilli, other.doneByMilli)
	for kind, n := range other.errors {
		t.fail(kind, other.samples[kind])
		t.errors[kind] += n - 1
	}
}

// wholePerSecond is the rate with phase two counted: until 99 % of the measured transactions are done.
func (t *tally) wholePerSecond() float64 {
	var done int64
	for ms, n := range t.doneByMilli {
		done += n
		if n > 0 && 100*done >= 99*t.Measured {
			return float64(done) / (float64(ms+1) / 1000)
		}
	}
	return 0
}

// report is the one JSON object this program prints. Rates are per second, latencies milliseconds of a whole transaction
// (begin sent to commit answered).
type report struct {
	Generator       string            `json:"generator"`
	Connections     int               `json:"connections"`
	InFlight        int               `json:"in_flight"`
	Seconds         float64           `json:"seconds"`
	Transactions    int64             `json:"transactions"`
	TxPerSecond     float64           `json:"tx_per_s"`
	WholePerSecond  float64           `json:"whole_per_s"`
	P50Ms           float64           `json:"p50_ms"`
	P99Ms           float64           `json:"p99_ms"`
	MaxMs           float64           `json:"max_ms"`
	BegunTotal      int64             `json:"begun_total"`
	CommittedTotal  int64             `json:"committed_total"`
	PhaseTwoTotal   int64             `json:"phase_two_total"`
	Conflicts       int64             `json:"conflicts"`
	GivenUp         int64             `json:"given_up"`
	HeartbeatsSent  int64             `json:"heartbeats_sent"`
	HeartbeatsHeard int64             `json:"heartbeats_answered"`
	Errors          map[string]int64  `json:"errors"`
	ErrorSamples    map[string]string `json:"error_samples"`
}

func newReport(o options, t *tally) report {
	window := o.window()
	if window == 0 {
		window = t.lastCommit
	}
	r := report{
		Generator: "go", Connections: o.connections, InFlight: o.inFlight,
		Seconds: window.Seconds(), Transactions: t.Measured, WholePerSecond: t.wholePerSecond(),
		P50Ms: t.latency.quantileMs(0.50), P99Ms: t.latency.quantileMs(0.99), MaxMs: float64(t.latency.max) / 1000,
		BegunTotal: t.Begun, CommittedTotal: t.Committed, PhaseTwoTotal: t.PhaseTwo,
		Conflicts: t.Conflicts, GivenUp: t.GivenUp,
		HeartbeatsSent: t.PingsSent, HeartbeatsHeard: t.PongsHeard,
		Errors: map[string]int64{}, ErrorSamples: map[string]string{},
	}
	if window > 0 {
		r.TxPerSecond = float64(t.Measured) / window.Seconds()
	}
	for kind, n := range t.errors {
		r.Errors[kind], r.ErrorSamples[kind] = n, t.samples[kind]
	}
	return r
}

func (r report) print(out io.Writer) {
	fmt.Fprintf(out, "%d connections x %d in flight, %.1f s: %d transactions\n", r.Connections, r.InFlight, r.Seconds, r.Transactions)
	fmt.Fprintf(out, "  committed      %10.0f tx/s\n", r.TxPerSecond)
	fmt.Fprintf(out, "  with phase two %10.0f tx/s (until 99 %% are done)\n", r.WholePerSecond)
	fmt.Fprintf(out, "  latency        p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", r.P50Ms, r.P99Ms, r.MaxMs)
	if r.Conflicts > 0 || r.GivenUp > 0 {
		fmt.Fprintf(out, "  conflicts      %d, transactions given up %d\n", r.Conflicts, r.GivenUp)
	}
	kinds := make([]string, 0, len(r.Errors))
	for kind := range r.Errors {
		kinds = append(kinds, kind)
	}
	sort.Strings(kinds)
	for _, kind := range kinds {
		fmt.Fprintf(out, "  ERROR %s: %d times, first: %s\n", kind, r.Errors[kind], r.ErrorSamples[kind])
	}
}
