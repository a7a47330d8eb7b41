package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Passage is what became of one packet that must not be fragmented.
type Passage struct {
	// Answered: it arrived, and an answer of the same size came back.
	Answered bool
	// MTU is what somebody on the way said would pass, 0 if nobody did.
	MTU int
}

// Probe sends one echo request in an IP packet of that many bytes, which nobody may fragment, and waits a second for the answer
// or for word that it is too big (RFC 1191, RFC 8201). Larger than the interface takes it is not sent: the MTU is the
// interface's then.
func (n *Namespace) Probe(ctx context.Context, dst netip.Addr, size int) (Passage, error) {
	network, protocol, header := "ip4:icmp", 1, 20
	var request icmp.Type = ipv4.ICMPTypeEcho
	if dst.Is6() {
		network, protocol, header = "ip6:ipv6-icmp", 58, 40
		request = ipv6.ICMPTypeEchoRequest
	}
	if size < header+8 {
		return Passage{}, fmt.Errorf("an echo request to %s has at least %d bytes, not %d", dst, header+8, size)
	}
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return whole(c, dst.Is6()) }}
		conn, err = config.ListenPacket(ctx, network, "")
		return err
	})
	if err != nil {
		return Passage{}, fmt.Errorf("opening an ICMP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	id, seq := os.Getpid()&0xffff, int(time.Now().UnixNano())&0xffff
	packet, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: seq, Data: make([]byte, size-header-8)}}).Marshal(nil)
	if err != nil {
		return Passage{}, err
	}
	_, err = conn.WriteTo(packet, &net.IPAddr{IP: dst.AsSlice()})
	if errors.Is(err, syscall.EMSGSIZE) {
		mtu, err := n.mtuTo(dst)
		return Passage{MTU: mtu}, err
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(answerWithin))
	}
	if err != nil {
		return Passage{}, errors.Join(ctx.Err(), fmt.Errorf("sending to %s: %w", dst, err))
	}
	buf := make([]byte, 1<<16)
	for {
		size, _, err := conn.ReadFrom(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Passage{}, nil
		case err != nil:
			return Passage{}, errors.Join(ctx.Err(), err)
		}
		m, err := icmp.ParseMessage(protocol, buf[:size])
		if err != nil {
			continue
		}
		switch body := m.Body.(type) {
		case *icmp.Echo:
			if body.ID == id && body.Seq == seq && m.Type != request {
				return Passage{Answered: true}, nil
			}
		case *icmp.PacketTooBig:
			return Passage{MTU: body.MTU}, nil
		case *icmp.DstUnreach:
			if m.Type == ipv4.ICMPTypeDestinationUnreachable && m.Code == 4 {
				return Passage{MTU: int(binary.BigEndian.Uint16(buf[6:8]))}, nil
			}
		}
	}
}

// whole makes the socket's packets ones that must not be fragmented, whatever was heard of the path before.
func whole(c syscall.RawConn, v6 bool) error {
	var err error
	control := c.Control(func(fd uintptr) {
		if v6 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
		}
	})
	return errors.Join(control, err)
}

// mtuTo is the MTU of the interface by which packets to dst leave.
func (n *Namespace) mtuTo(dst netip.Addr) (mtu int, err error) {
	err = n.Do(func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(dst, 9).String()) // sends nothing
		if err != nil {
			return err
		}
		defer conn.Close()
		raw, err := conn.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		err = raw.Control(func(fd uintptr) {
			if dst.Is6() {
				mtu, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
			} else {
				mtu, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
			}
		})
		return errors.Join(err, failed)
	})
	return mtu, err
}
