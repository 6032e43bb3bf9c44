package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmgrpc"
	"github.com/dtm-labs/client/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// request is a branch call, whichever way it came.
type request struct {
	call
	query url.Values
	ctx   context.Context
}

func (r request) movement() (m movement, err error) {
	err = json.Unmarshal([]byte(r.Body), &m)
	return
}

func (r request) barrier() (*dtmcli.BranchBarrier, error) {
	return dtmcli.BarrierFrom(r.TransType, r.Gid, r.BranchID, r.Op)
}

// services by the name in their URL: /NAME over HTTP, /busi.Busi/NAME over gRPC.
func (p *program) services() map[string]func(request) error {
	return map[string]func(request) error{
		"act":           func(request) error { return nil },
		"bank":          p.moveGuarded,
		"queryPrepared": p.queryPrepared,
		"xa":            p.moveUnderXa,
		"nested":        p.nested,
	}
}

func (p *program) moveGuarded(r request) error {
	m, err := r.movement()
	if err != nil {
		return err
	}
	barrier, err := r.barrier()
	if err != nil {
		return err
	}
	return p.bank.guarded(barrier, m)
}

func (p *program) queryPrepared(r request) error {
	barrier, err := r.barrier()
	if err != nil {
		return err
	}
	return barrier.QueryPrepared(p.bank.db)
}

func (p *program) moveUnderXa(r request) error {
	if r.Op != "action" { // the second phase has no body
		return p.xaTransaction(r, func(*sql.DB) error { return nil })
	}
	m, err := r.movement()
	if err != nil {
		return err
	}
	return p.bank.underXa(func(work func(*sql.DB) error) error { return p.xaTransaction(r, work) }, m)
}

func (p *program) xaTransaction(r request, work func(*sql.DB) error) error {
	if r.Protocol == "grpc" {
		return dtmgrpc.XaLocalTransaction(r.ctx, p.bank.conf, func(db *sql.DB, _ *dtmgrpc.XaGrpc) error { return work(db) })
	}
	return dtmcli.XaLocalTransaction(r.query, p.bank.conf, func(db *sql.DB, _ *dtmcli.Xa) error { return work(db) })
}

// nested is a TCC branch whose try opens a branch of its own below it.
func (p *program) nested(r request) error {
	if r.Op != "try" {
		return nil
	}
	if r.Protocol == "grpc" {
		tcc, err := dtmgrpc.TccFromGrpc(r.ctx)
		if err != nil {
			return err
		}
		act := p.grpcHere + "/busi.Busi/act"
		return tcc.CallBranch(wrapperspb.String(r.Body), act, act, act, &wrapperspb.StringValue{})
	}
	tcc, err := dtmcli.TccFromQuery(r.query)
	if err != nil {
		return err
	}
	_, err = tcc.CallBranch(json.RawMessage(r.Body), p.httpHere+"/act", p.httpHere+"/act", p.httpHere+"/act")
	return err
}

func (p *program) do(service func(request) error, r request) error {
	return play(p.journal.arrived(&r.call), func() error { return service(r) })
}

// ---- HTTP ----

func (p *program) httpServices() http.Handler {
	mux := http.NewServeMux()
	for name, service := range p.services() {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, h *http.Request) {
			body, err := io.ReadAll(h.Body)
			if err == nil {
				err = p.do(service, httpRequest(name, h, body))
			}
			reply(w, err)
		})
	}
	mux.HandleFunc("/workflow", func(w http.ResponseWriter, h *http.Request) {
		body, err := io.ReadAll(h.Body)
		if err == nil {
			r := httpRequest("workflow", h, body)
			err = p.do(func(request) error {
				workflow.SetProtocolForTest("http")
				return workflow.ExecuteByQS(h.URL.Query(), body)
			}, r)
		}
		reply(w, err)
	})
	mux.HandleFunc("/calls", func(w http.ResponseWriter, h *http.Request) {
		answer(w, p.journal.of(h.URL.Query().Get("gid")))
	})
	mux.HandleFunc("/script", func(w http.ResponseWriter, h *http.Request) {
		var s script
		if !read(w, h, &s) {
			return
		}
		p.journal.setScript(s)
		answer(w, s)
	})
	mux.HandleFunc("/run", func(w http.ResponseWriter, h *http.Request) {
		var r run
		if read(w, h, &r) {
			answer(w, p.run(r))
		}
	})
	return mux
}

func httpRequest(service string, h *http.Request, body []byte) request {
	query := h.URL.Query()
	headers := map[string]string{}
	for name := range h.Header {
		headers[strings.ToLower(name)] = h.Header.Get(name)
	}
	c := call{Gid: query.Get("gid"), TransType: query.Get("trans_type"), BranchID: query.Get("branch_id"),
		Op: query.Get("op"), Service: service, Protocol: "http", Method: h.Method, Body: string(body), Headers: headers}
	if isRPC := (struct {
		Method string
		Params map[string]any
	}{}); h.Method == http.MethodPost && json.Unmarshal(body, &isRPC) == nil && isRPC.Params != nil {
		c = jsonRpcCall(c, isRPC.Method, isRPC.Params)
	}
	return request{call: c, query: query, ctx: h.Context()}
}

func jsonRpcCall(c call, method string, params map[string]any) call {
	text := func(name string) string { found, _ := params[name].(string); return found }
	c.Gid, c.TransType, c.BranchID, c.Op = text("gid"), text("trans_type"), text("branch_id"), text("op")
	c.Protocol, c.Method = "json-rpc", method
	return c
}

func reply(w http.ResponseWriter, err error) {
	code, body := dtmcli.Result2HttpJSON(map[string]string{"dtm_result": "SUCCESS"})
	if err != nil {
		code, body = dtmcli.Result2HttpJSON(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func read(w http.ResponseWriter, h *http.Request, into any) bool {
	if err := json.NewDecoder(h.Body).Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// ---- gRPC ----

func (p *program) grpcServices() *grpc.ServiceDesc {
	methods := []grpc.MethodDesc{}
	for name, service := range p.services() {
		methods = append(methods, grpc.MethodDesc{MethodName: name, Handler: p.grpcHandler(name, service)})
	}
	return &grpc.ServiceDesc{ServiceName: "busi.Busi", HandlerType: (*any)(nil), Methods: methods}
}

func (p *program) grpcHandler(name string, service func(request) error) func(
	any, context.Context, func(any) error, grpc.UnaryServerInterceptor,
) (any, error) {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		payload := &wrapperspb.StringValue{}
		if err := decode(payload); err != nil {
			return nil, err
		}
		err := p.do(service, grpcRequest(name, ctx, payload.Value))
		if err != nil {
			return nil, dtmgrpc.DtmError2GrpcError(err)
		}
		return wrapperspb.String("done"), nil
	}
}

func grpcRequest(service string, ctx context.Context, body string) request {
	values, _ := metadata.FromIncomingContext(ctx)
	headers := map[string]string{}
	for name, found := range values {
		headers[name] = strings.Join(found, ",")
	}
	return request{ctx: ctx, call: call{Gid: headers["dtm-gid"], TransType: headers["dtm-trans_type"],
		BranchID: headers["dtm-branch_id"], Op: headers["dtm-op"], Service: service, Protocol: "grpc", Method: "unary",
		Body: body, Headers: headers}}
}

// workflowsOverGrpc: the client knows one protocol for all workflows of a process; a resumption says which it is.
func workflowsOverGrpc(
	ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if strings.HasPrefix(info.FullMethod, "/workflow.") {
		workflow.SetProtocolForTest("grpc")
	}
	return handler(ctx, message)
}

var errNoDatabase = errors.New("this program was started without --db")
