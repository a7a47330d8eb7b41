package peer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"highwire/vppapi/fault"
)

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

// echo is one reply.
type echo struct {
	from netip.Addr
	seq  uint16
	at   time.Time
}

const (
	// answerWithin is how long an echo may take before it counts as lost.
	answerWithin = time.Second
	// askEvery is when a neighbour that has not answered is asked again, askTimes how often in all.
	askEvery, askTimes = 300 * time.Millisecond, 4

	echoHeader = 8
	// defaultPing is the length of an IPv4 packet that carries the customary 56 bytes.
	defaultPing = ip4Header + echoHeader + 56
)

// Ping sends count ICMP echo requests to dst, in IP packets of that size in bytes (0 for a small one), each after the
// answer to the last or after a second without one. That none was answered is no error. Errors are those of NewFlow.
func (p *Peer) Ping(ctx context.Context, dst netip.Addr, count, size int) (Echoes, error) {
	var e Echoes
	f, err := p.NewFlow(ctx, dst, size)
	if err != nil {
		return e, err
	}
	defer f.Close()
	var total time.Duration
	for e.Sent < count {
		begun := time.Now()
		seq := f.Send()
		e.Sent++
		at, err := awaitEcho(ctx, f.replies, dst, seq)
		if err != nil {
			return e, err
		}
		if at.IsZero() {
			continue
		}
		rtt := at.Sub(begun)
		e.Received++
		total += rtt
		e.Avg, e.Max = total/time.Duration(e.Received), max(e.Max, rtt)
		if e.Received == 1 || rtt < e.Min {
			e.Min = rtt
		}
	}
	return e, nil
}

// awaitEcho waits for the reply to one request; the zero time means that there was none.
func awaitEcho(ctx context.Context, replies <-chan echo, from netip.Addr, seq uint16) (time.Time, error) {
	timeout := time.NewTimer(answerWithin)
	defer timeout.Stop()
	for {
		select {
		case r := <-replies:
			if r.seq == seq && r.from == from {
				return r.at, nil
			}
		case <-timeout.C:
			return time.Time{}, nil
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// expect makes an identifier for echo requests and the channel that their replies come on.
func (p *Peer) expect() (uint16, <-chan echo) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.lastID++; p.echoes[p.lastID] != nil; p.lastID++ {
	}
	replies := make(chan echo, 16)
	p.echoes[p.lastID] = replies
	return p.lastID, replies
}

func (p *Peer) forget(id uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.echoes, id)
}

func (p *Peer) answered(e echo, id uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.echoes[id] <- e:
	default: // nobody has asked, or it is answered many times over
	}
}

// source is the own address to reach dst from: one of the same prefix, or else any of its family.
func (p *Peer) source(dst netip.Addr) (netip.Addr, error) {
	var best netip.Addr
	for _, prefix := range p.cfg.Addresses {
		if prefix.Addr().Is6() != dst.Is6() {
			continue
		}
		if prefix.Masked().Contains(dst) {
			return prefix.Addr(), nil
		}
		if !best.IsValid() {
			best = prefix.Addr()
		}
	}
	if !best.IsValid() {
		return best, fault.New(fault.Invalid, "memif peer has no address to reach %s from", dst)
	}
	return best, nil
}

// resolve finds the Ethernet address behind dst. It asks each time: who answers may have changed behind a vWire whose own
// ends have not.
func (p *Peer) resolve(ctx context.Context, src, dst netip.Addr) (net.HardwareAddr, error) {
	if p.cfg.L3 {
		return nil, nil
	}
	answers := make(chan net.HardwareAddr, 1)
	p.mu.Lock()
	p.asked[answers] = dst
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.asked, answers)
	}()
	request := p.arp(arpRequest, broadcast, src, dst)
	if dst.Is6() {
		a := dst.As16()
		group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
		request = p.neighborDiscovery(ndSolicitation, 0, multicast(group), src, group, dst)
	}
	for range askTimes {
		p.send(request)
		timeout := time.NewTimer(askEvery)
		select {
		case mac := <-answers:
			timeout.Stop()
			return mac, nil
		case <-timeout.C:
		case <-ctx.Done():
			timeout.Stop()
			return nil, ctx.Err()
		}
	}
	return nil, fault.New(fault.Unavailable, "nobody answers for %s on memif socket %s", dst, p.cfg.Address)
}

// found hands a neighbour to those who asked for it.
func (p *Peer) found(a netip.Addr, mac net.HardwareAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for answers, asked := range p.asked {
		if asked != a {
			continue
		}
		select {
		case answers <- mac:
		default:
		}
	}
}
