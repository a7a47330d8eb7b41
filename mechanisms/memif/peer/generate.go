package peer

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"highwire/vppapi/fault"
)

// Traffic is what Generate sends: UDP datagrams to the discard port.
type Traffic struct {
	To netip.Addr
	// Size of a packet on the memif in bytes, headers included; 0 for 64.
	Size int
	// Rate in packets per second, 0 for as many as there is room for.
	Rate int
	// Burst is how many packets the other side is shown at once, 0 for 64.
	Burst int
}

const (
	discardPort  = 9
	udpHeader    = 8
	defaultSize  = 64
	defaultBurst = 64
	// fullWait is when a full ring is tried again: memif has no event for room, and a ring of 1024 lasts longer than this
	// at any rate seen.
	fullWait = 20 * time.Microsecond
)

// Generate sends traffic until ctx ends and tells how many packets that were. It waits while the other side is away. Errors
// are those of Ping.
func (p *Peer) Generate(ctx context.Context, t Traffic) (sent uint64, err error) {
	whole, err := p.datagram(ctx, &t)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for ctx.Err() == nil {
		n := t.Burst
		if t.Rate > 0 {
			due := uint64(time.Since(begun).Seconds() * float64(t.Rate))
			if due <= sent {
				_ = awaitTime(ctx, max(time.Second/time.Duration(t.Rate), 100*time.Microsecond)) // the loop looks at ctx
				continue
			}
			n = int(min(uint64(n), due-sent))
		}
		k, connected := p.burst(whole, n)
		sent += uint64(k)
		switch {
		case !connected:
			_ = p.Await(ctx, true) // the loop looks at ctx
		case k < n:
			time.Sleep(fullWait)
		}
	}
	return sent, nil
}

// datagram is the packet that Generate repeats.
func (p *Peer) datagram(ctx context.Context, t *Traffic) ([]byte, error) {
	if t.Size == 0 {
		t.Size = defaultSize
	}
	if t.Burst <= 0 {
		t.Burst = defaultBurst
	}
	headers := ip4Header + udpHeader
	if t.To.Is6() {
		headers = ip6Header + udpHeader
	}
	if !p.cfg.L3 {
		headers += etherHeader
	}
	if t.Size < headers || t.Size >= maxPacket {
		return nil, fault.New(fault.Invalid, "traffic of %d bytes a packet: want %d to %d", t.Size, headers, maxPacket-1)
	}
	src, err := p.source(t.To)
	if err != nil {
		return nil, err
	}
	mac, err := p.resolve(ctx, src, t.To)
	if err != nil {
		return nil, err
	}
	whole, b := p.packet(mac, src, t.To, protoUDP, hopLimit, t.Size-headers+udpHeader)
	binary.BigEndian.PutUint16(b, discardPort)
	binary.BigEndian.PutUint16(b[2:], discardPort)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], fold(sum(pseudo(src, t.To, protoUDP, len(b)), b)))
	return whole, nil
}
