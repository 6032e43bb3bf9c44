package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dtm-labs/client/dtmcli"
)

func isA(err, kind error) bool { return errors.Is(err, kind) }

// call is one request that a coordinator, or a client, made of a branch.
type call struct {
	Gid       string            `json:"gid"`
	TransType string            `json:"trans_type"`
	BranchID  string            `json:"branch_id"`
	Op        string            `json:"op"`
	Service   string            `json:"service"`
	Protocol  string            `json:"protocol"`
	Method    string            `json:"method"`
	Body      string            `json:"body"`
	Headers   map[string]string `json:"headers"`
	AtMs      int64             `json:"at_ms"`
	Answer    string            `json:"answer"`
}

type script struct {
	Gid     string              `json:"gid"`
	Answers map[string][]string `json:"answers"`
}

type line struct {
	Call   *call   `json:"call,omitempty"`
	Script *script `json:"script,omitempty"`
}

// journal holds what was asked of this service and what it shall answer; every line is in the file before the answer.
type journal struct {
	mutex   sync.Mutex
	file    *os.File
	calls   []*call
	scripts map[string]map[string][]string
}

func openJournal(name string) *journal {
	j := &journal{scripts: map[string]map[string][]string{}}
	if name == "" {
		return j
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	must(err)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var l line
		must(json.Unmarshal(lines.Bytes(), &l))
		j.remember(l)
	}
	must(lines.Err())
	j.file = file
	return j
}

func (j *journal) remember(l line) {
	if l.Call != nil {
		j.calls = append(j.calls, l.Call)
	}
	if l.Script != nil {
		j.scripts[l.Script.Gid] = l.Script.Answers
	}
}

func (j *journal) write(l line) {
	j.remember(l)
	if j.file == nil {
		return
	}
	text, err := json.Marshal(l)
	must(err)
	_, err = j.file.Write(append(text, '\n'))
	must(err)
}

func (j *journal) setScript(s script) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.write(line{Script: &s})
}

// arrived notes the call and says how the script answers it: the n-th of a branch and op gets the n-th word, or the last.
func (j *journal) arrived(c *call) string {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	before := 0
	for _, earlier := range j.calls {
		if earlier.Gid == c.Gid && earlier.BranchID == c.BranchID && earlier.Op == c.Op {
			before++
		}
	}
	c.Answer = "ok"
	if answers := j.scripts[c.Gid][c.BranchID+"/"+c.Op]; len(answers) > 0 {
		c.Answer = answers[min(before, len(answers)-1)]
	}
	c.AtMs = time.Now().UnixMilli()
	j.write(line{Call: c})
	return c.Answer
}

func (j *journal) of(gid string) []*call {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	found := []*call{}
	for _, c := range j.calls {
		if gid == "" || c.Gid == gid {
			found = append(found, c)
		}
	}
	return found
}

// play does `work` as the word of the script says, and gives the error that the answer is made of.
//
//	ok  failure  ongoing  error      the answer; work is done only with ok
//	slow:MS                          ok, after so many milliseconds
//	lost:MS                          work is done, the answer comes after so many milliseconds (or too late)
//	done-error                       work is done, the answer is an error
//	crash  done-crash                the process dies, before or after the work
func play(answer string, work func() error) error {
	word, number, _ := strings.Cut(answer, ":")
	pause, _ := strconv.Atoi(number)
	switch word {
	case "failure":
		return fmt.Errorf("scripted %w", dtmcli.ErrFailure)
	case "ongoing":
		return fmt.Errorf("scripted %w", dtmcli.ErrOngoing)
	case "error":
		return errors.New("scripted trouble")
	case "crash":
		os.Exit(137)
	case "slow":
		time.Sleep(time.Duration(pause) * time.Millisecond)
	}
	err := work()
	switch word {
	case "lost":
		time.Sleep(time.Duration(pause) * time.Millisecond)
	case "done-error":
		return errors.New("scripted trouble after the work")
	case "done-crash":
		os.Exit(137)
	}
	return err
}
