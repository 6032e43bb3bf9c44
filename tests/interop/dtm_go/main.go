// A program of real DTM clients: the published Go module github.com/dtm-labs/client, unchanged, in both of its roles.
// It is the business services that a coordinator calls (over HTTP and gRPC), and the starter of transactions.
//
// A test steers it over its HTTP port:
//
//	POST /script   {"gid", "answers": {"01/action": ["ongoing", "ok"]}}  how to answer the calls of a branch, in turn
//	GET  /calls    ?gid=                                                 every call that came, in order
//	POST /run      runs.go: begin a transaction and say how it went
//
// Scripts and calls are lines of a file, so a service that was killed goes on where it was.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/workflow"
	"github.com/dtm-labs/logger"
	"google.golang.org/grpc"
)

type program struct {
	journal  *journal
	bank     *bank
	httpDtm  string
	grpcDtm  string
	httpHere string
	grpcHere string
}

func main() {
	httpPort := flag.Int("http-port", 0, "port of the HTTP services; 0: any free one")
	grpcPort := flag.Int("grpc-port", 0, "port of the gRPC services; 0: any free one")
	journalFile := flag.String("journal", "", "file of scripts and calls")
	database := flag.String("db", "", "mysql://USER:PASSWORD@HOST:PORT/NAME or postgresql://…; empty: no accounts")
	p := &program{}
	flag.StringVar(&p.httpDtm, "dtm-http", "", "http://HOST:PORT/api/dtmsvr, for workflows")
	flag.StringVar(&p.grpcDtm, "dtm-grpc", "", "HOST:PORT, for workflows")
	level := flag.String("log", "error", "level of the client's log")
	flag.Parse()
	logger.InitLog2(*level, "stderr", 0, "")
	p.journal = openJournal(*journalFile)
	p.bank = openBank(*database)
	p.serve(*httpPort, *grpcPort)
}

func (p *program) serve(httpPort, grpcPort int) {
	httpListener, grpcListener := listen(httpPort), listen(grpcPort)
	p.httpHere = "http://" + httpListener.Addr().String()
	p.grpcHere = grpcListener.Addr().String()
	grpcServer := grpc.NewServer(grpc.UnaryInterceptor(workflowsOverGrpc))
	grpcServer.RegisterService(p.grpcServices(), p)
	workflow.InitHTTP(p.httpDtm, p.httpHere+"/workflow")
	workflow.InitGrpc(p.grpcDtm, p.grpcHere, grpcServer)
	must(workflow.Register2("scripted", p.scriptedWorkflow, func(wf *workflow.Workflow) { wf.RetryInterval = 1 }))
	go func() { must(grpcServer.Serve(grpcListener)) }()
	ready, err := json.Marshal(map[string]string{"http": p.httpHere, "grpc": p.grpcHere})
	must(err)
	fmt.Println(string(ready))
	must(http.Serve(httpListener, p.httpServices()))
}

func listen(port int) net.Listener {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(err)
	return listener
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// kindOf tells the three ways of DTM apart, as the client itself does.
func kindOf(err error) string {
	for kind, known := range map[string]error{
		"failure": dtmcli.ErrFailure, "ongoing": dtmcli.ErrOngoing, "duplicated": dtmcli.ErrDuplicated,
	} {
		if isA(err, known) {
			return kind
		}
	}
	if err != nil {
		return "error"
	}
	return ""
}
