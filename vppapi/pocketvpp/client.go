package pocketvpp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/codec"
)

// handleBit marks client indices of socket clients (VPP: SOCK_API_REG_HANDLE_BIT).
const handleBit = 1 << 31

// maxBacklog bounds the answers kept for a client that does not read them; one that lets more pile up is cut off.
const maxBacklog = 64 << 20

// client is one connection. A reader serves its requests in order; a writer sends what is queued, so that a client that
// reads slowly holds up nobody else.
type client struct {
	srv   *Server
	conn  net.Conn
	index uint32 // in the pool of clients; its handle on the wire has handleBit set
	name  string // from the handshake; empty before it
	pid   uint32 // as given with want_interface_events
	// traces are what trace_v2_dump shows this client.
	traces []string

	mu     sync.Mutex
	queue  []byte
	closed bool          // nothing more will be queued
	wake   chan struct{} // the queue or closed changed
}

func (s *Server) addClient(conn net.Conn) *client {
	c := &client{srv: s, conn: conn, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.index = s.clients.add(c)
	return c
}

func (c *client) handle() uint32 { return c.index | handleBit }

// errBye ends a client that asked for it.
var errBye = errors.New("client said goodbye")

// read serves the client's requests until it goes.
func (c *client) read() {
	var buf []byte
	r := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		msg, err := readFrame(r, &buf)
		if err == nil {
			err = c.srv.serve(c, msg)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, errBye) {
				c.srv.log.Warn("api client cut off", "client", c.name, "error", err)
			}
			break
		}
	}
	c.srv.removeClient(c)
	c.finish()
}

func (s *Server) removeClient(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.remove(c.index)
	s.unwantEvents(c)
	for peer := range s.wireguardPeers.values() {
		peer.unwant(c)
	}
}

// serve acts on one message. An error means that the client can not go on.
func (s *Server) serve(c *client, msg []byte) error {
	if len(msg) < 2 {
		return fmt.Errorf("message of %d bytes has no id", len(msg))
	}
	id := binary.BigEndian.Uint16(msg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == sockclntCreateID {
		return s.greet(c, msg)
	}
	r, ok := s.table.routes[id]
	if !ok || len(msg) < requestHeader || c.name == "" || binary.BigEndian.Uint32(msg[2:]) != c.handle() {
		// VPP finds no handler or no registration, and stays silent.
		s.log.Warn("api message ignored", "client", c.name, "id", id, "bytes", len(msg))
		return nil
	}
	s.counts[r.name]++
	call := &call{client: c, context: binary.BigEndian.Uint32(msg[6:])}
	if s.cfg.Fault != nil {
		if retval, drop := s.cfg.Fault(r.name); drop {
			return nil
		} else if retval != 0 {
			if r.fail != nil {
				r.fail(call, retval)
			}
			return nil
		}
	}
	if err := r.serve(call, msg); err != nil {
		s.log.Warn("api message malformed", "client", c.name, "message", r.name, "error", err)
	}
	if r.name == (*memclnt.SockclntDelete)(nil).GetMessageName() {
		return errBye
	}
	return nil
}

// greet answers the handshake with the client's index and the message table.
func (s *Server) greet(c *client, msg []byte) error {
	var req memclnt.SockclntCreate
	if err := codec.DecodeMsg(msg, &req); err != nil {
		return fmt.Errorf("sockclnt_create: %w", err)
	}
	c.name = req.Name
	if c.name == "" {
		c.name = "unnamed"
	}
	reply := &memclnt.SockclntCreateReply{Index: c.handle()}
	for name, id := range s.table.ids {
		reply.MessageTable = append(reply.MessageTable, memclnt.MessageTableEntry{Index: id, Name: name})
	}
	reply.Count = uint16(len(reply.MessageTable))
	// sockclnt_create carries no client index, only a context.
	c.send(binary.BigEndian.Uint32(msg[2:]), reply)
	return nil
}

// send queues m with its id and context.
func (c *client) send(context uint32, m api.Message) {
	data, err := codec.EncodeMsg(m, c.srv.table.declare(m))
	if err != nil {
		c.srv.log.Error("answer cannot be encoded", "message", m.GetMessageName(), "error", err)
		return
	}
	switch m.GetMessageType() {
	case api.RequestMessage: // by shape: a client index comes before the context
		binary.BigEndian.PutUint32(data[6:], context)
	case api.EventMessage:
		binary.BigEndian.PutUint32(data[2:], c.handle())
	default:
		binary.BigEndian.PutUint32(data[2:], context)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if len(c.queue) > maxBacklog {
		c.closed, c.queue = true, nil
		_ = c.conn.Close()
		return
	}
	c.queue = appendFrame(c.queue, data)
	c.signal()
}

// finish lets the writer end once it has sent what is queued.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.signal()
}

func (c *client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends what is queued until the client is finished, then closes the connection.
func (c *client) write() {
	defer func() { _ = c.conn.Close() }()
	var batch []byte
	for range c.wake {
		c.mu.Lock()
		batch, c.queue = c.queue, batch[:0]
		closed := c.closed
		c.mu.Unlock()
		if _, err := c.conn.Write(batch); err != nil || closed {
			return
		}
	}
}
