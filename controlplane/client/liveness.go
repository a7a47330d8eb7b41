package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
)

// pinger asks the other side of a connection for echoes, by unprivileged ICMP sockets in the client's namespace (§3.6): the
// dataplane opens net.ipv4.ping_group_range there.
type pinger struct {
	pairs []*pingPair
}

// pingPair is an address of ours and one of the other side.
type pingPair struct {
	dst  netip.Addr
	conn *icmp.PacketConn
	seq  int
}

// newPinger opens a socket for each pair of addresses of one family. A connection without addresses has none, and counts as
// alive.
func (c *Client) newPinger(conn *connection.Connection) (*pinger, error) {
	context, err := hop.ParseContext(conn.GetContext())
	if err != nil {
		return nil, err
	}
	p := &pinger{}
	err = inNamespace(c.namespace, func() error {
		for _, src := range context.Src {
			for _, dst := range context.Dst {
				if src.Addr().Is4() != dst.Addr().Is4() {
					continue
				}
				network := "udp4"
				if src.Addr().Is6() {
					network = "udp6"
				}
				socket, err := icmp.ListenPacket(network, src.Addr().String())
				if err != nil {
					return fmt.Errorf("open an ICMP socket at %s: %w; is net.ipv4.ping_group_range open in the client's namespace?", src.Addr(), err)
				}
				p.pairs = append(p.pairs, &pingPair{dst: dst.Addr(), conn: socket})
			}
		}
		return nil
	})
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *pinger) close() {
	for _, pair := range p.pairs {
		_ = pair.conn.Close()
	}
}

// ping tells whether every pair has answered until the deadline.
func (p *pinger) ping(ctx context.Context, deadline time.Time) bool {
	stop := context.AfterFunc(ctx, func() {
		for _, pair := range p.pairs {
			_ = pair.conn.SetReadDeadline(time.Now())
		}
	})
	defer stop()
	for _, pair := range p.pairs {
		pair.send()
	}
	for _, pair := range p.pairs {
		if ctx.Err() != nil || !pair.receive(deadline) {
			return false
		}
	}
	return true
}

// send does not tell what went wrong: no answer will.
func (p *pingPair) send() {
	typ := icmp.Type(ipv4.ICMPTypeEcho)
	if p.dst.Is6() {
		typ = ipv6.ICMPTypeEchoRequest
	}
	p.seq = (p.seq + 1) & 0xffff
	message, err := (&icmp.Message{Type: typ, Body: &icmp.Echo{Seq: p.seq, Data: []byte("highwire")}}).Marshal(nil)
	if err == nil {
		_, _ = p.conn.WriteTo(message, &net.UDPAddr{IP: p.dst.AsSlice()})
	}
}

// receive waits for the answer to the last request; the kernel gives the socket no others' answers.
func (p *pingPair) receive(deadline time.Time) bool {
	if p.conn.SetReadDeadline(deadline) != nil {
		return false
	}
	protocol := 1
	if p.dst.Is6() {
		protocol = 58
	}
	buffer := make([]byte, 1500)
	for {
		n, _, err := p.conn.ReadFrom(buffer)
		if err != nil {
			return false
		}
		m, err := icmp.ParseMessage(protocol, buffer[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.Seq == p.seq {
			return true
		}
	}
}

// watch pings until nothing was answered for the timeout, or ctx ends. The first ping is sent at once.
func (p *pinger) watch(ctx context.Context, interval, timeout time.Duration) (dead bool) {
	again := time.NewTicker(interval)
	defer again.Stop()
	answered := time.Now()
	for {
		if p.ping(ctx, time.Now().Add(timeout)) {
			answered = time.Now()
		} else if ctx.Err() == nil && time.Since(answered) >= timeout {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
}

// inNamespace runs fn on a thread in the namespace; sockets that it opens stay there.
func inNamespace(namespace *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked where the thread cannot come back: it ends with the goroutine
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if same(home, namespace) {
			done <- fn()
			runtime.UnlockOSThread()
			return
		}
		target, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", namespace.Fd())) // ours is open with O_PATH only
		if err != nil {
			done <- err
			return
		}
		defer target.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the client's network namespace: %w", err)
			return
		}
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func same(a, b *os.File) bool {
	x, err := a.Stat()
	y, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(x, y)
}

// pinger is nil where the other side is not to be pinged, or cannot be.
func (s *session) pinger() *pinger {
	if s.client.LivenessInterval == 0 || s.conn.GetMechanism().GetType() != mechanisms.Kernel {
		return nil
	}
	p, err := s.client.newPinger(s.conn)
	if err != nil {
		s.log.Warn("it is not known whether the other side is alive", "reason", err)
		return nil
	}
	return p
}

// dies pings until the other side is dead, or ctx ends.
func (s *session) dies(ctx context.Context) bool {
	p := s.pinger()
	if p == nil {
		return false
	}
	defer p.close()
	if !p.watch(ctx, s.client.LivenessInterval, s.client.LivenessTimeout) {
		return false
	}
	s.log.Warn("the other side of the vWire does not answer", "for", s.client.LivenessTimeout)
	return true
}

// alive tells whether the other side certainly answers now.
func (s *session) alive(ctx context.Context) bool {
	p := s.pinger()
	if p == nil {
		return false
	}
	defer p.close()
	return len(p.pairs) > 0 && p.ping(ctx, time.Now().Add(s.client.LivenessTimeout))
}
