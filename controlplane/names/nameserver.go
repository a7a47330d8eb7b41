package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds on the sockets that a nameserver is asked by. One port that is used for ever would be easy to guess.
const (
	maxIdle    = 16
	maxUses    = 64
	maxAge     = 10 * time.Second
	resend     = time.Second
	payloadOut = 1232 // what passes everywhere unfragmented
)

// nameserver is one of a source's.
type nameserver struct {
	addr netip.AddrPort
	// dial opens a socket to it in the pod's namespace.
	dial func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
	// mark goes with each query, see marked.
	mark []byte

	mu     sync.Mutex
	idle   []*socket
	closed bool
}

// socket is connected to a nameserver by UDP. It carries one question at a time.
type socket struct {
	net.Conn
	born time.Time
	uses int
}

// ask asks a question and takes from the answer what the server's source owns.
func (s *nameserver) ask(ctx context.Context, q question, of *source) result {
	m, err := s.exchange(ctx, s.query(q, true))
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) && !q.dnssec {
		m, err = s.exchange(ctx, s.query(q, false)) // it knows no EDNS (RFC 6891, section 7)
	}
	if err != nil {
		return result{verdict: failed}
	}
	return believe(m, q, of.owns)
}

func (s *nameserver) query(q question, edns bool) *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}}}
	m.Id, m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = dns.Id(), true, q.unchecked, true
	if edns {
		m.SetEdns0(payloadOut, q.dnssec)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: markCode, Data: s.mark}}
	}
	return m
}

// exchange asks by UDP, and by TCP where the answer is cut short.
func (s *nameserver) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, err
	}
	m, err := s.overUDP(ctx, q, wire)
	if err == nil && m.Truncated {
		return s.overTCP(ctx, q)
	}
	return m, err
}

func (s *nameserver) overUDP(ctx context.Context, q *dns.Msg, wire []byte) (*dns.Msg, error) {
	c, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	m, err := c.exchange(ctx, q, wire)
	if !stop() || err != nil {
		c.Close()
		return m, err
	}
	s.give(c)
	return m, nil
}

// exchange sends the query, and sends it again while nothing comes.
func (c *socket) exchange(ctx context.Context, q *dns.Msg, wire []byte) (*dns.Msg, error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for pause := resend; ; pause *= 2 {
		if _, err := c.Write(wire); err != nil {
			return nil, err
		}
		if err := c.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return nil, err
		}
		for {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n, err := c.Read(*buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err
			}
			if m := answerTo(q, (*buffer)[:n]); m != nil {
				return m, nil
			}
		}
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, dns.MaxMsgSize); return &b }}

// answerTo is the message if it answers the query, and nil otherwise. Of one that is cut off somewhere only the header counts.
func answerTo(q *dns.Msg, wire []byte) *dns.Msg {
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		if len(wire) < 12 || !m.Truncated || m.Id != q.Id || !m.Response {
			return nil
		}
		return m
	}
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery {
		return nil
	}
	switch asked := q.Question[0]; {
	case len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return m // some leave out what they do not like
	case len(m.Question) != 1, dns.CanonicalName(m.Question[0].Name) != asked.Name, m.Question[0].Qtype != asked.Qtype, m.Question[0].Qclass != asked.Qclass:
		return nil
	}
	return m
}

func (s *nameserver) overTCP(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	conn, err := s.dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	wire, err := c.ReadMsgHeader(nil)
	if err != nil {
		return nil, err
	}
	m := answerTo(q, wire)
	if m == nil || m.Truncated {
		return nil, fmt.Errorf("nameserver %s answers by TCP what was not asked", s.addr)
	}
	return m, nil
}

// take is a socket that nobody else uses.
func (s *nameserver) take(ctx context.Context) (*socket, error) {
	s.mu.Lock()
	for len(s.idle) > 0 {
		c := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		if c.uses < maxUses && time.Since(c.born) < maxAge {
			s.mu.Unlock()
			c.uses++
			return c, nil
		}
		c.Close()
	}
	s.mu.Unlock()
	conn, err := s.dial(ctx, "udp", s.addr)
	if err != nil {
		return nil, err
	}
	return &socket{Conn: conn, born: time.Now()}, nil
}

func (s *nameserver) give(c *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle) == maxIdle {
		c.Close()
		return
	}
	s.idle = append(s.idle, c)
}

// close lets go of idle sockets; busy ones go when their question is answered.
func (s *nameserver) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, c := range s.idle {
		c.Close()
	}
	s.idle = nil
}
