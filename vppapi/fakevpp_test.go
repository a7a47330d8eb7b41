package vppapi

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/codec"
)

// serve accepts clients on the socket until the test ends; each is given to handle and stays connected unless that closes it.
func serve(t *testing.T, socket string, handle func(net.Conn)) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var clients []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			clients = append(clients, c)
			mu.Unlock()
			wg.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range clients {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// talk is VPP's side of a session with a client: after the handshake, which gives out ids, each request is answered by the
// message that answers names.
func talk(c net.Conn, ids map[uint16]api.Message, answers map[uint16]uint16) {
	// A frame is 16 bytes, of which 8 to 11 are the length of the message, and the message.
	receive := func() []byte {
		header := make([]byte, 16)
		if _, err := io.ReadFull(c, header); err != nil {
			return nil
		}
		msg := make([]byte, binary.BigEndian.Uint32(header[8:]))
		if _, err := io.ReadFull(c, msg); err != nil {
			return nil
		}
		return msg
	}
	send := func(id uint16, context []byte, m api.Message) {
		msg, err := codec.EncodeMsg(m, id)
		if err != nil {
			panic(err)
		}
		copy(msg[2:6], context)
		frame := make([]byte, 16, 16+len(msg))
		binary.BigEndian.PutUint32(frame[8:], uint32(len(msg)))
		_, _ = c.Write(append(frame, msg...))
	}
	greeting := receive()
	if greeting == nil {
		return
	}
	reply := &memclnt.SockclntCreateReply{}
	for id, m := range ids {
		reply.MessageTable = append(reply.MessageTable, memclnt.MessageTableEntry{Index: id, Name: m.GetMessageName() + "_" + m.GetCrcString()})
	}
	reply.Count = uint16(len(reply.MessageTable))
	send(16, greeting[2:6], reply)
	for msg := receive(); msg != nil; msg = receive() {
		if answer, ok := answers[binary.BigEndian.Uint16(msg)]; ok {
			send(answer, msg[6:10], ids[answer]) // after the client's index comes the context
		}
	}
}
