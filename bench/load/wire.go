package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The part of Seata's protocol, version 1, that one AT transaction needs. All integers are big-endian.

const (
	magic         = 0xdada
	headBytes     = 16
	maxFrameBytes = 8 << 20
	codecSeata    = 1
)

// Kinds of frames (the "message type" byte of the head).
const (
	kindRequest = 0
	kindAnswer  = 1
	kindOneWay  = 2
	kindPing    = 3
	kindPong    = 4
)

// Type codes of the bodies.
const (
	typeGlobalBegin          = 1
	typeGlobalBeginResult    = 2
	typeBranchCommit         = 3
	typeBranchCommitResult   = 4
	typeBranchRollback       = 5
	typeBranchRollbackResult = 6
	typeGlobalCommit         = 7
	typeGlobalCommitResult   = 8
	typeGlobalRollback       = 9
	typeGlobalRollbackResult = 10
	typeBranchRegister       = 11
	typeBranchRegisterResult = 12
	typeRegisterTM           = 101
	typeRegisterTMResult     = 102
	typeRegisterRM           = 103
	typeRegisterRMResult     = 104
	typeUndoLogDelete        = 111
)

const (
	resultSuccess           = 1
	branchTypeAT            = 0
	statusCommitted         = 9
	statusRollbacked        = 11
	branchCommitted         = 5
	branchRollbacked        = 8
	codeLockConflict        = 2
	codeLockConflictNoRetry = 20
)

// frame is one decoded frame. Its body (without the type code) points into the read buffer: it is valid until the next read.
type frame struct {
	kind byte
	id   int32
	code int16
	body []byte
}

// nextFrame cuts the first whole frame off buf. size 0 means: more bytes are needed.
func nextFrame(buf []byte) (f frame, size int, err error) {
	if len(buf) < headBytes {
		return frame{}, 0, nil
	}
	if binary.BigEndian.Uint16(buf) != magic {
		return frame{}, 0, fmt.Errorf("magic is %x, not dada", buf[:2])
	}
	if buf[2] != 1 {
		return frame{}, 0, fmt.Errorf("protocol version %d, not 1", buf[2])
	}
	total, head := binary.BigEndian.Uint32(buf[3:]), binary.BigEndian.Uint16(buf[7:])
	if total > maxFrameBytes || head < headBytes || uint32(head) > total {
		return frame{}, 0, fmt.Errorf("frame length %d, head length %d", total, head)
	}
	if uint32(len(buf)) < total {
		return frame{}, 0, nil
	}
	f = frame{kind: buf[9], id: int32(binary.BigEndian.Uint32(buf[12:])), body: buf[head:total]}
	if f.kind == kindPing || f.kind == kindPong {
		return f, int(total), nil
	}
	if buf[10] != codecSeata || buf[11] != 0 {
		return frame{}, 0, fmt.Errorf("codec %d, compressor %d: only 1 and 0 were asked for", buf[10], buf[11])
	}
	if len(f.body) < 2 {
		return frame{}, 0, errors.New("a body without a type code")
	}
	f.code = int16(binary.BigEndian.Uint16(f.body))
	f.body = f.body[2:]
	return f, int(total), nil
}

// writer appends frames to one buffer: everything due on a connection leaves in one write.
type writer struct {
	buf   []byte
	start int
}

func (w *writer) open(kind byte, id int32) {
	w.start = len(w.buf)
	w.buf = append(w.buf, 0xda, 0xda, 1, 0, 0, 0, 0, 0, headBytes, kind, codecSeata, 0)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(id))
}

func (w *writer) close() {
	binary.BigEndian.PutUint32(w.buf[w.start+3:], uint32(len(w.buf)-w.start))
}

func (w *writer) b1(v byte)  { w.buf = append(w.buf, v) }
func (w *writer) b2(v int16) { w.buf = binary.BigEndian.AppendUint16(w.buf, uint16(v)) }
func (w *writer) b4(v int32) { w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(v)) }
func (w *writer) b8(v int64) { w.buf = binary.BigEndian.AppendUint64(w.buf, uint64(v)) }

func (w *writer) s2(s string) {
	w.b2(int16(len(s)))
	w.buf = append(w.buf, s...)
}

func (w *writer) s4(s string) {
	w.b4(int32(len(s)))
	w.buf = append(w.buf, s...)
}

func (w *writer) heartbeat(kind byte, id int32) {
	w.open(kind, id)
	w.close()
}

// register writes RegisterTM, or RegisterRM when resources are given.
func (w *writer) register(id int32, who client, extraData, resources string) {
	w.open(kindRequest, id)
	code := int16(typeRegisterTM)
	if resources != "" {
		code = typeRegisterRM
	}
	w.b2(code)
	w.s2(who.version)
	w.s2(who.application)
	w.s2(who.group)
	w.s2(extraData)
	if resources != "" {
		w.s4(resources)
	}
	w.close()
}

func (w *writer) globalBegin(id int32, timeoutMs int32, name string) {
	w.open(kindRequest, id)
	w.b2(typeGlobalBegin)
	w.b4(timeoutMs)
	w.s2(name)
	w.close()
}

func (w *writer) branchRegister(id int32, xid, resource, lockKey string) {
	w.open(kindRequest, id)
	w.b2(typeBranchRegister)
	w.s2(xid)
	w.b1(branchTypeAT)
	w.s2(resource)
	w.s4(lockKey)
	w.s4("")
	w.close()
}

// globalEnd writes GlobalCommit or GlobalRollback: their bodies are alike.
func (w *writer) globalEnd(id int32, code int16, xid string) {
	w.open(kindRequest, id)
	w.b2(code)
	w.s2(xid)
	w.s2("")
	w.close()
}

// branchDone answers a phase-two request under the coordinator's own request id.
func (w *writer) branchDone(id int32, code int16, xid string, branchID int64, status byte) {
	w.open(kindAnswer, id)
	w.b2(code)
	w.b1(resultSuccess)
	w.b1(0)
	w.s2(xid)
	w.b8(branchID)
	w.b1(status)
	w.close()
}

// reader walks over one body. After the first field that is not there it only yields zero values and bad is set.
type reader struct {
	buf []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.buf) {
		r.bad = true
		return nil
	}
	taken := r.buf[:n]
	r.buf = r.buf[n:]
	return taken
}

func (r *reader) b1() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) b8() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (r *reader) s2() []byte {
	if b := r.take(2); b != nil {
		return r.take(int(int16(binary.BigEndian.Uint16(b))))
	}
	return nil
}

func (r *reader) s4() []byte {
	if b := r.take(4); b != nil {
		return r.take(int(int32(binary.BigEndian.Uint32(b))))
	}
	return nil
}

// outcome is what every answer to a transaction request starts with; msg is only on the wire when the result is Failed.
type outcome struct {
	success bool
	msg     string
	code    byte
}

func (r *reader) outcome() outcome {
	o := outcome{success: r.b1() == resultSuccess}
	if !o.success {
		o.msg = string(r.s2())
	}
	o.code = r.b1()
	return o
}
