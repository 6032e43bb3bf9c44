package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/go-resty/resty/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// run is one transaction to begin. Server is http://HOST:PORT/api/dtmsvr, HOST:PORT for gRPC, …/api/json-rpc for that.
type run struct {
	Kind     string   `json:"kind"`     // saga tcc msg xa workflow newGid
	Protocol string   `json:"protocol"` // http grpc json-rpc
	Server   string   `json:"server"`
	Gid      string   `json:"gid"`
	Branches []branch `json:"branches"`
	Options  options  `json:"options"`
	// of a message
	QueryPrepared string    `json:"query_prepared"`
	Only          string    `json:"only"`  // prepare, local, submit: this part alone
	Local         string    `json:"local"` // ok failure error crash: how the local transaction of DoAndSubmitDB ends
	LocalMovement *movement `json:"local_movement"`
	// of a TCC, an XA: how the function ends after the branches
	Ends string `json:"ends"` // "" or error, crash
	// of a workflow
	Result string `json:"result"`
}

type branch struct {
	URL        string          `json:"url"`
	Compensate string          `json:"compensate"` // also cancel, rollback
	Confirm    string          `json:"confirm"`    // also commit
	Payload    json.RawMessage `json:"payload"`
	Topic      string          `json:"topic"`
	Kind       string          `json:"kind"` // of a workflow's: "" call, local, xa
}

type options struct {
	dtmcli.TransOptions
	Orders map[int][]int `json:"orders"`
	Delay  uint64        `json:"delay"`
}

type ran struct {
	Gid    string `json:"gid"`
	Error  string `json:"error"`
	Kind   string `json:"kind"` // "", failure, ongoing, duplicated, error
	Result string `json:"result"`
	TookMs int64  `json:"took_ms"`
}

func (p *program) run(r run) (out ran) {
	began := time.Now()
	var result string
	err := dtmimp.CatchP(func() {
		var failed error
		result, failed = p.begin(r)
		dtmimp.E2P(failed)
	})
	out = ran{Gid: r.Gid, Kind: kindOf(err), Result: result, TookMs: time.Since(began).Milliseconds()}
	if err != nil {
		out.Error = err.Error()
	}
	return
}

func (p *program) begin(r run) (string, error) {
	switch r.Kind + "/" + r.Protocol {
	case "newGid/grpc":
		return dtmgrpc.MustGenGid(r.Server), nil
	case "newGid/http":
		return dtmcli.MustGenGid(r.Server), nil
	case "saga/grpc":
		return "", r.sagaGrpc()
	case "saga/http", "saga/json-rpc":
		return "", r.saga()
	case "tcc/grpc":
		return "", r.tccGrpc()
	case "tcc/http", "tcc/json-rpc":
		return "", r.tcc()
	case "msg/grpc":
		return "", p.msgGrpc(r)
	case "msg/http", "msg/json-rpc":
		return "", p.msg(r)
	case "xa/grpc":
		return "", r.xaGrpc()
	case "xa/http":
		return "", r.xa()
	case "workflow/http", "workflow/grpc":
		return p.workflow(r)
	}
	return "", fmt.Errorf("no such run: %s over %s", r.Kind, r.Protocol)
}

func (r run) protocol() string {
	if r.Protocol == "json-rpc" {
		return dtmimp.Jrpc
	}
	return ""
}

func (b branch) text() *wrapperspb.StringValue { return wrapperspb.String(string(b.Payload)) }

// ---- saga ----

func (r run) saga() error {
	saga := dtmcli.NewSaga(r.Server, r.Gid)
	for _, b := range r.Branches {
		saga.Add(b.URL, b.Compensate, b.Payload)
	}
	r.order(saga)
	saga.Protocol = r.protocol()
	return saga.Submit()
}

func (r run) sagaGrpc() error {
	saga := dtmgrpc.NewSagaGrpc(r.Server, r.Gid)
	for _, b := range r.Branches {
		saga.Add(b.URL, b.Compensate, b.text())
	}
	r.order(&saga.Saga)
	return saga.Submit()
}

func (r run) order(saga *dtmcli.Saga) {
	saga.TransOptions = r.Options.TransOptions
	for step, before := range r.Options.Orders {
		saga.AddBranchOrder(step, before)
	}
}

// ---- TCC and XA ----

func (r run) end() error { return play(dtmimp.OrString(r.Ends, "ok"), func() error { return nil }) }

func (r run) tcc() error {
	set := func(t *dtmcli.Tcc) { t.TransOptions = r.Options.TransOptions; t.Protocol = r.protocol() }
	return dtmcli.TccGlobalTransaction2(r.Server, r.Gid, set, func(t *dtmcli.Tcc) (*resty.Response, error) {
		for _, b := range r.Branches {
			if answered, err := t.CallBranch(b.Payload, b.URL, b.Confirm, b.Compensate); err != nil {
				return answered, err
			}
		}
		return nil, r.end()
	})
}

func (r run) tccGrpc() error {
	set := func(t *dtmgrpc.TccGrpc) { t.TransOptions = r.Options.TransOptions }
	return dtmgrpc.TccGlobalTransaction2(r.Server, r.Gid, set, func(t *dtmgrpc.TccGrpc) error {
		for _, b := range r.Branches {
			if err := t.CallBranch(b.text(), b.URL, b.Confirm, b.Compensate, &wrapperspb.StringValue{}); err != nil {
				return err
			}
		}
		return r.end()
	})
}

func (r run) xa() error {
	set := func(x *dtmcli.Xa) { x.TransOptions = r.Options.TransOptions }
	return dtmcli.XaGlobalTransaction2(r.Server, r.Gid, set, func(x *dtmcli.Xa) (*resty.Response, error) {
		for _, b := range r.Branches {
			if answered, err := x.CallBranch(b.Payload, b.URL); err != nil {
				return answered, err
			}
		}
		return nil, r.end()
	})
}

func (r run) xaGrpc() error {
	set := func(x *dtmgrpc.XaGrpc) { x.TransOptions = r.Options.TransOptions }
	return dtmgrpc.XaGlobalTransaction2(r.Server, r.Gid, set, func(x *dtmgrpc.XaGrpc) error {
		for _, b := range r.Branches {
			if err := x.CallBranch(b.text(), b.URL, &wrapperspb.StringValue{}); err != nil {
				return err
			}
		}
		return r.end()
	})
}

// ---- message ----

func (p *program) msg(r run) error {
	msg := dtmcli.NewMsg(r.Server, r.Gid)
	for _, b := range r.Branches {
		if b.Topic != "" {
			msg.AddTopic(b.Topic, b.Payload)
		} else {
			msg.Add(b.URL, b.Payload)
		}
	}
	msg.TransOptions = r.Options.TransOptions
	msg.Protocol = r.protocol()
	msg.SetDelay(r.Options.Delay)
	return p.send(r, msg)
}

func (p *program) msgGrpc(r run) error {
	msg := dtmgrpc.NewMsgGrpc(r.Server, r.Gid)
	for _, b := range r.Branches {
		if b.Topic != "" {
			msg.AddTopic(b.Topic, b.text())
		} else {
			msg.Add(b.URL, b.text())
		}
	}
	msg.TransOptions = r.Options.TransOptions
	msg.SetDelay(r.Options.Delay)
	return p.send(r, msg)
}

type message interface {
	Prepare(queryPrepared string) error
	Submit() error
	DoAndSubmitDB(queryPrepared string, db *sql.DB, do dtmcli.BarrierBusiFunc) error
}

func (p *program) send(r run, m message) error {
	switch {
	case r.Only == "prepare":
		return m.Prepare(r.QueryPrepared)
	case r.Only == "submit":
		return m.Submit()
	case r.Only == "local":
		return p.localTransaction(r)
	case r.Local == "":
		if err := m.Prepare(r.QueryPrepared); err != nil {
			return err
		}
		return m.Submit()
	case p.bank == nil:
		return errNoDatabase
	}
	if r.Local == "done-crash" { // the local transaction is committed; nobody submits
		if err := m.Prepare(r.QueryPrepared); err != nil {
			return err
		}
		return play(r.Local, func() error { return p.localTransaction(r) })
	}
	return m.DoAndSubmitDB(r.QueryPrepared, p.bank.db, func(tx *sql.Tx) error {
		return play(r.Local, func() error { return move(tx, "msg", *r.LocalMovement) })
	})
}

// localTransaction is the middle of DoAndSubmitDB alone.
func (p *program) localTransaction(r run) error {
	if p.bank == nil {
		return errNoDatabase
	}
	barrier, err := dtmcli.BarrierFrom("msg", r.Gid, dtmimp.MsgDoBranch0, dtmimp.MsgDoOp)
	if err != nil {
		return err
	}
	return p.bank.guarded(barrier, *r.LocalMovement)
}
