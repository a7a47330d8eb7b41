package peer

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"highwire/vppapi/fault"
)

// Flow is echo requests to one address that are sent whenever its owner likes, answered or not.
type Flow struct {
	p       *Peer
	dst     netip.Addr
	id      uint16
	replies <-chan echo

	mu    sync.Mutex
	whole []byte // the request, and the part of it that is ICMP
	icmp  []byte
	seq   uint16
}

// NewFlow prepares echo requests to dst, in IP packets of that size in bytes (0 for a small one). In Ethernet mode it asks for
// dst's MAC first, as every address is on the link. Errors: fault.Invalid without an address of dst's family,
// fault.Unavailable where nobody answers for dst's MAC, and those of ctx.
func (p *Peer) NewFlow(ctx context.Context, dst netip.Addr, size int) (*Flow, error) {
	src, err := p.source(dst)
	if err != nil {
		return nil, err
	}
	mac, err := p.resolve(ctx, src, dst)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		size = defaultPing
	}
	header, protocol, types := ip4Header, uint8(protoICMP), ping4
	if dst.Is6() {
		header, protocol, types = ip6Header, protoICMPv6, ping6
	}
	size = max(size-header, echoHeader)
	if size+header > maxPacket-etherHeader-1 {
		return nil, fault.New(fault.Invalid, "ping with a packet of %d bytes: too long", size+header)
	}
	f := &Flow{p: p, dst: dst}
	f.id, f.replies = p.expect()
	f.whole, f.icmp = p.packet(mac, src, dst, protocol, hopLimit, size)
	f.icmp[0] = types[0]
	binary.BigEndian.PutUint16(f.icmp[4:], f.id)
	for i := range f.icmp[echoHeader:] {
		f.icmp[echoHeader+i] = byte(i)
	}
	start := uint32(0)
	if dst.Is6() {
		start = pseudo(src, dst, protocol, len(f.icmp))
	}
	binary.BigEndian.PutUint16(f.icmp[2:], fold(sum(start, f.icmp)))
	return f, nil
}

// Send sends a request and returns its number, from 1 on. While nobody is at the other end it is lost.
func (f *Flow) Send() (seq uint16) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	// The checksum is of the whole and changes by as much as the number does (RFC 1624, 3).
	checksum := ^binary.BigEndian.Uint16(f.icmp[2:])
	old := binary.BigEndian.Uint16(f.icmp[6:])
	binary.BigEndian.PutUint16(f.icmp[6:], f.seq)
	binary.BigEndian.PutUint16(f.icmp[2:], fold(uint32(checksum)+uint32(^old)+uint32(f.seq)))
	f.p.send(f.whole)
	return f.seq
}

// Receive waits for the next answer and tells to which request it is and when it came. Its error is that of ctx.
func (f *Flow) Receive(ctx context.Context) (seq uint16, at time.Time, err error) {
	for {
		select {
		case r := <-f.replies:
			if r.from == f.dst {
				return r.seq, r.at, nil
			}
		case <-ctx.Done():
			return 0, time.Time{}, ctx.Err()
		}
	}
}

// Close ends the flow: no more answers are taken.
func (f *Flow) Close() { f.p.forget(f.id) }
