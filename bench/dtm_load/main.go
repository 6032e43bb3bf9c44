// Command dtm_load puts DTM transactions of two branches on a coordinator, and measures them.
//
// It is client and business service in one: the branches are no-ops that it answers itself. A transaction counts when its
// submit (wait_result) has been answered, both branches included. With --mode bare the address is that of
// bench/bare_relay.py, which makes the same three HTTP exchanges without any transaction.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

type load struct {
	base   string
	branch string
	mode   string
	run    string
	client *http.Client
	calls  atomic.Int64
	serial atomic.Int64
}

func main() {
	base := flag.String("base", "http://127.0.0.1:36789/api/dtmsvr", "the coordinator's DTM door, or the relay")
	mode := flag.String("mode", "saga", "saga, msg, tcc or bare")
	inFlight := flag.Int("in-flight", 16, "transactions at a time")
	seconds := flag.Float64("seconds", 2, "measured time")
	warmup := flag.Float64("warmup-s", 0.5, "the same load before")
	flag.Parse()
	l := &load{base: *base, mode: *mode, run: fmt.Sprintf("%s-%d", *mode, time.Now().UnixNano())}
	l.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConns: *inFlight, MaxIdleConnsPerHost: *inFlight,
	}}
	if err := l.serve(); err != nil {
		fail(err)
	}
	if err := l.measure(*inFlight, *warmup, *seconds); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// serve answers the branches' calls.
func (l *load) serve() error {
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	l.branch = "http://" + listening.Addr().String() + "/branch"
	answer := []byte(`{"dtm_result":"SUCCESS"}`)
	go func() {
		_ = http.Serve(listening, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			l.calls.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer)
		}))
	}()
	return nil
}

// measure runs workers, and prints what the middle of their time was like.
func (l *load) measure(inFlight int, warmupS, seconds float64) error {
	begin := time.Now()
	from := begin.Add(time.Duration(warmupS * float64(time.Second)))
	until := from.Add(time.Duration(seconds * float64(time.Second)))
	var mutex sync.Mutex
	var spent []float64
	var total int
	var firstError error
	var workers sync.WaitGroup
	for n := 0; n < inFlight; n++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for time.Now().Before(until) {
				started := time.Now()
				err := l.transaction()
				ended := time.Now()
				mutex.Lock()
				if err != nil && firstError == nil {
					firstError = err
				}
				total++
				if err == nil && ended.After(from) && ended.Before(until) {
					spent = append(spent, ended.Sub(started).Seconds()*1000)
				}
				stop := firstError != nil
				mutex.Unlock()
				if stop {
					return
				}
			}
		}()
	}
	workers.Wait()
	if firstError != nil {
		return firstError
	}
	if calls := l.calls.Load(); calls != int64(2*total) {
		return fmt.Errorf("%d transactions made %d calls of branches, not %d", total, calls, 2*total)
	}
	sort.Float64s(spent)
	report := map[string]float64{"total": float64(total), "per_second": float64(len(spent)) / seconds}
	if len(spent) > 0 {
		report["p50_ms"], report["p99_ms"] = spent[len(spent)/2], spent[len(spent)*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

type object = map[string]any

func (l *load) transaction() error {
	gid := fmt.Sprintf("%s-%d", l.run, l.serial.Add(1))
	step := object{"action": l.branch, "compensate": l.branch}
	trans := object{"gid": gid, "trans_type": l.mode, "wait_result": true}
	switch l.mode {
	case "bare":
		return l.post("", object{"gid": gid, "branch": l.branch})
	case "saga", "msg":
		trans["steps"] = []object{step, step}
		trans["payloads"] = []string{"{}", "{}"}
		return l.post("/submit", trans)
	case "tcc":
		if err := l.post("/prepare", trans); err != nil {
			return err
		}
		for _, id := range []string{"01", "02"} {
			branch := object{"gid": gid, "trans_type": "tcc", "branch_id": id, "data": "{}", "confirm": l.branch, "cancel": l.branch}
			if err := l.post("/registerBranch", branch); err != nil {
				return err
			}
		}
		return l.post("/submit", trans)
	}
	return fmt.Errorf("--mode %s is not one of saga, msg, tcc, bare", l.mode)
}

func (l *load) post(path string, body object) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answer, err := l.client.Post(l.base+path, "application/json", bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s", l.mode, path, answer.StatusCode, text)
	}
	return nil
}
