package packets

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

const (
	defaultProbes = 5
	defaultSize   = 56
	// maxSize leaves room for headers in the longest IP packet.
	maxSize = 65000
)

// Ping sends ICMP echo requests from one end's own interface to every address of the other end, each after the answer to the last
// or after the timeout, and tells of each. The client's end probes if it is a kernel interface, else the endpoint's; where neither
// is, it is fault.Invalid.
func (s *Service) Ping(r *highwirev1.PingRequest, stream grpc.ServerStreamingServer[highwirev1.PingEvent]) error {
	v, err := s.find(r.Id)
	if err != nil {
		return err
	}
	if r.Size > maxSize {
		return fault.New(fault.Invalid, "size %d: at most %d bytes fit", r.Size, maxSize)
	}
	from, to, err := prober(v)
	if err != nil {
		return err
	}
	namespace, err := mechanisms.ParseInode(from.Params[mechanisms.ParamInode])
	if err != nil {
		return err
	}
	ctx := stream.Context()
	for _, target := range to.Addresses {
		source := addressLike(from, target.Addr())
		if !source.IsValid() {
			continue
		}
		var p *pinger
		err := s.cfg.Namespaces.Do(ctx, namespace, func() (err error) {
			p, err = newPinger(source, target.Addr())
			return err
		})
		if err == nil {
			err = p.run(ctx, r, func(sequence uint32, answered bool, took time.Duration) error {
				e := &highwirev1.PingEvent{From: string(from.Side), Source: source.String(), Target: target.Addr().String(), Sequence: sequence}
				if answered {
					e.RoundTrip = durationpb.New(took)
				}
				return stream.Send(e)
			})
		}
		if err != nil {
			return fmt.Errorf("ping %s from %s: %w", target.Addr(), source, err)
		}
	}
	return nil
}

// prober chooses who probes whom.
func prober(v forwarder.Status) (from, to mechanisms.End, err error) {
	kernels := 0
	for _, side := range sides {
		from, to = endOf(v.VWire, side), endOf(v.VWire, side.Other())
		if from.Type != mechanisms.Kernel {
			continue
		}
		kernels++
		for _, target := range to.Addresses {
			if addressLike(from, target.Addr()).IsValid() {
				return from, to, nil
			}
		}
	}
	if kernels == 0 {
		return from, to, fault.New(fault.Invalid, "vWire %s has no kernel interface to ping from: its ends are %s and %s, whose programs hold the addresses themselves; "+
			"'highwire client --ping' is one that pings", v.VWire.ID, v.VWire.Client.Type, v.VWire.Endpoint.Type)
	}
	return from, to, fault.New(fault.Invalid, "vWire %s has no pair of addresses to ping: its ends have none of one family", v.VWire.ID)
}

// addressLike is an end's first address of the family of another.
func addressLike(e mechanisms.End, other netip.Addr) netip.Addr {
	for _, a := range e.Addresses {
		if a.Addr().Is4() == other.Is4() {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// pinger is an ICMP socket (RFC 792, RFC 4443) from one address to another.
type pinger struct {
	conn     *icmp.PacketConn
	target   netip.Addr
	request  icmp.Type
	reply    icmp.Type
	protocol int
	id       int
}

func newPinger(source, target netip.Addr) (*pinger, error) {
	p := &pinger{target: target, request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, protocol: 1, id: rand.IntN(1 << 16)}
	network := "ip4:icmp"
	if target.Is6() {
		network, p.request, p.reply, p.protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var err error
	p.conn, err = icmp.ListenPacket(network, source.String())
	return p, err
}

// run probes as the request says, tells of each probe, and closes the socket.
func (p *pinger) run(ctx context.Context, r *highwirev1.PingRequest, tell func(sequence uint32, answered bool, took time.Duration) error) error {
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })()
	count, size := r.Count, int(r.Size)
	if count == 0 {
		count = defaultProbes
	}
	if size == 0 {
		size = defaultSize
	}
	next := time.NewTicker(within(r.Interval, time.Second))
	defer next.Stop()
	for n := uint32(1); ; n++ {
		took, err := p.probe(int(n&0xffff), size, within(r.Timeout, time.Second))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := tell(n, err == nil, took); err != nil || n == count {
			return err
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe sends one request and waits for its answer; os.ErrDeadlineExceeded if there is none in time.
func (p *pinger) probe(sequence, size int, timeout time.Duration) (time.Duration, error) {
	packet, err := (&icmp.Message{Type: p.request, Body: &icmp.Echo{ID: p.id, Seq: sequence, Data: make([]byte, size)}}).Marshal(nil)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := p.conn.SetReadDeadline(begun.Add(timeout)); err != nil {
		return 0, err
	}
	if _, err := p.conn.WriteTo(packet, &net.IPAddr{IP: p.target.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, size+128)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		took := time.Since(begun)
		// A raw socket sees all ICMP of the namespace.
		m, err := icmp.ParseMessage(p.protocol, buf[:n])
		if err != nil || m.Type != p.reply {
			continue
		}
		sender, ok := from.(*net.IPAddr)
		if echo, isEcho := m.Body.(*icmp.Echo); ok && isEcho && echo.ID == p.id && echo.Seq == sequence && sender.IP.Equal(p.target.AsSlice()) {
			return took, nil
		}
	}
}
