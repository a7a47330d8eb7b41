package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// answerWithin is how long an echo may take before it counts as lost.
const answerWithin = time.Second

// Echoes is what became of a number of ICMP echo requests.
type Echoes struct {
	Sent, Received int
	// Min, Avg and Max are round-trip times of those answered.
	Min, Avg, Max time.Duration
}

// String is one line for people.
func (e Echoes) String() string {
	return fmt.Sprintf("%d sent, %d received, round trip min/avg/max %s/%s/%s", e.Sent, e.Received,
		e.Min.Round(time.Microsecond), e.Avg.Round(time.Microsecond), e.Max.Round(time.Microsecond))
}

// Ping sends count ICMP echo requests (RFC 792, RFC 4443) from the namespace to dst, each after the answer to the last or
// after a second without one. That none was answered is no error; it is for the caller to judge.
func (n *Namespace) Ping(ctx context.Context, dst netip.Addr, count int) (Echoes, error) {
	return n.PingEach(ctx, dst, count, func(time.Duration) {})
}

// PingEach is Ping that tells each round trip.
func (n *Namespace) PingEach(ctx context.Context, dst netip.Addr, count int, answered func(roundTrip time.Duration)) (Echoes, error) {
	network, request, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), 1
	if dst.Is6() {
		network, request, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, 58
	}
	var conn *icmp.PacketConn
	err := n.Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, "")
		return err
	})
	if err != nil {
		return Echoes{}, fmt.Errorf("opening an ICMP socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	var e Echoes
	var total time.Duration
	id := os.Getpid() & 0xffff
	for seq := 1; seq <= count; seq++ {
		packet, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: seq, Data: make([]byte, 56)}}).Marshal(nil)
		if err != nil {
			return e, err
		}
		start := time.Now()
		e.Sent++
		if _, err := conn.WriteTo(packet, &net.IPAddr{IP: dst.AsSlice()}); err != nil {
			return e, errors.Join(ctx.Err(), fmt.Errorf("sending an echo request to %s: %w", dst, err))
		}
		switch err := awaitReply(conn, protocol, id, seq, start.Add(answerWithin)); {
		case err == nil:
			rtt := time.Since(start)
			answered(rtt)
			e.Received++
			total += rtt
			e.Avg, e.Max = total/time.Duration(e.Received), max(e.Max, rtt)
			if e.Received == 1 || rtt < e.Min {
				e.Min = rtt
			}
		case ctx.Err() != nil:
			return e, ctx.Err()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return e, fmt.Errorf("waiting for the echo of %s: %w", dst, err)
		}
	}
	return e, nil
}

// awaitReply reads until the reply to id and seq is there. A raw socket sees all ICMP of the namespace.
func awaitReply(conn *icmp.PacketConn, protocol, id, seq int, deadline time.Time) error {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		size, _, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		m, err := icmp.ParseMessage(protocol, buf[:size])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id && echo.Seq == seq {
			return nil
		}
	}
}
