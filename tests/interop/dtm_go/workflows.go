package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// workflow runs, or resumes, the one workflow there is; its branches are in its data.
func (p *program) workflow(r run) (string, error) {
	workflow.SetProtocolForTest(r.Protocol)
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	result, err := workflow.ExecuteCtx(context.Background(), "scripted", r.Gid, data)
	return string(result), err
}

func (p *program) scriptedWorkflow(wf *workflow.Workflow, data []byte) ([]byte, error) {
	var r run
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, err
	}
	for _, b := range r.Branches {
		if err := p.step(wf, b); err != nil {
			return nil, err
		}
	}
	return []byte(r.Result), nil
}

func (p *program) step(wf *workflow.Workflow, b branch) error {
	wf.NewBranch()
	if b.Compensate != "" {
		wf.OnRollback(func(bb *dtmcli.BranchBarrier) error { return callBranch(wf, b.Compensate, b) })
	}
	if b.Confirm != "" {
		wf.OnCommit(func(bb *dtmcli.BranchBarrier) error { return callBranch(wf, b.Confirm, b) })
	}
	switch b.Kind {
	case "local":
		_, err := wf.Do(func(bb *dtmcli.BranchBarrier) ([]byte, error) {
			var m movement
			if err := json.Unmarshal(b.Payload, &m); err != nil {
				return nil, err
			}
			return []byte("moved"), p.bank.guarded(bb, m)
		})
		return err
	case "xa":
		var m movement
		if err := json.Unmarshal(b.Payload, &m); err != nil {
			return err
		}
		return p.bank.underXa(func(work func(*sql.DB) error) error {
			_, err := wf.DoXa(p.bank.conf, func(db *sql.DB) ([]byte, error) { return []byte("moved"), work(db) })
			return err
		}, m)
	}
	return callBranch(wf, b.URL, b)
}

// callBranch calls a URL of either protocol; the workflow records the answer of an action.
func callBranch(wf *workflow.Workflow, url string, b branch) error {
	if strings.HasPrefix(url, "http") {
		_, err := wf.NewRequest().SetBody(b.Payload).Post(url)
		return err
	}
	server, method, _ := strings.Cut(url, "/")
	connection, err := grpc.Dial(server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(workflow.Interceptor))
	if err != nil {
		return err
	}
	defer connection.Close()
	return connection.Invoke(wf.Context, "/"+method, b.text(), &wrapperspb.StringValue{})
}
