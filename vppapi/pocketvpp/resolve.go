package pocketvpp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Neighbours are learned by ARP (RFC 826) in IPv4 and Neighbor Discovery (RFC 4861) in IPv6, on interfaces that have an
// address. Like VPP by default, nothing learned is ever forgotten, and a packet that has to wait for an answer is lost.

const (
	arpRequest, arpReply      = 1, 2
	arpLength                 = 28
	icmpNeighborSolicitation  = 135
	icmpNeighborAdvertisement = 136
	ndLength                  = 24 // without options
	askEvery                  = 200 * time.Millisecond
)

// learned are the neighbours of an interface that have answered, and when others were asked.
type learned struct {
	mu    sync.Mutex
	macs  map[netip.Addr]hardwareAddr
	asked map[netip.Addr]time.Time
}

func (l *learned) find(addr netip.Addr) (hardwareAddr, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mac, ok := l.macs[addr]
	return mac, ok
}

// neighborsKept bounds what anybody on the link can make us remember.
const neighborsKept = 4096

// add takes a neighbour's word.
func (l *learned) add(addr netip.Addr, mac hardwareAddr) {
	if mac[0]&1 != 0 || !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.macs == nil {
		l.macs = map[netip.Addr]hardwareAddr{}
	}
	if _, known := l.macs[addr]; known || len(l.macs) < neighborsKept {
		l.macs[addr] = mac
	}
}

// ask tells whether it is time to ask for addr, and notes that it was.
func (l *learned) ask(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked == nil {
		l.asked = map[netip.Addr]time.Time{}
	}
	now := time.Now()
	if now.Sub(l.asked[addr]) < askEvery {
		return false
	}
	l.asked[addr] = now
	return true
}

// resolution takes ARP, and ND messages.
type resolution struct{ s *Server }

func (r resolution) receive(in *iface, p *packet) error {
	if p.bytes()[0]>>4 == 6 {
		return r.nd(in, p.bytes())
	}
	return r.arp(in, p.bytes())
}

// view is what the packet path needs to know of an interface, at one moment.
type view struct {
	mac       hardwareAddr
	addresses []netip.Prefix
}

func (s *Server) view(i *iface) view {
	s.fwd.RLock()
	defer s.fwd.RUnlock()
	return view{i.mac, i.addresses}
}

// on is our address on the subnet of addr, or the first of its family.
func (v view) on(addr netip.Addr) (own netip.Addr, onLink bool) {
	for _, p := range v.addresses {
		if p.Contains(addr) {
			return p.Addr(), true
		}
		if !own.IsValid() && p.Addr().Is4() == addr.Is4() {
			own = p.Addr()
		}
	}
	return own, false
}

func (v view) has(addr netip.Addr) bool {
	for _, p := range v.addresses {
		if p.Addr() == addr {
			return true
		}
	}
	return false
}

// arp takes a frame behind its Ethernet header.
func (r resolution) arp(in *iface, b []byte) error {
	if len(b) < arpLength || binary.BigEndian.Uint32(b) != 0x00010800 || binary.BigEndian.Uint16(b[4:]) != 0x0604 {
		return errHeader
	}
	op, mac := binary.BigEndian.Uint16(b[6:]), hardwareAddr(b[8:])
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	v := r.s.view(in)
	if _, known := in.learned.find(sender); v.has(sender) || !known && !v.has(target) {
		return nil
	}
	in.learned.add(sender, mac)
	if op == arpRequest && v.has(target) {
		return r.s.send(in, arpFrame(arpReply, v.mac, target, mac, sender))
	}
	return nil
}

// arpFrame is a request where the destination is the broadcast address.
func arpFrame(op uint16, srcMAC hardwareAddr, src netip.Addr, dstMAC hardwareAddr, dst netip.Addr) *packet {
	p := newPacket()
	p.off, p.end = headroom, headroom+ethernetHeader+arpLength
	b := p.bytes()
	copy(b, dstMAC[:])
	copy(b[6:], srcMAC[:])
	binary.BigEndian.PutUint16(b[12:], etherARP)
	a := b[ethernetHeader:]
	binary.BigEndian.PutUint32(a, 0x00010800)
	binary.BigEndian.PutUint16(a[4:], 0x0604)
	binary.BigEndian.PutUint16(a[6:], op)
	copy(a[8:], srcMAC[:])
	copy(a[14:], src.AsSlice())
	if op == arpReply {
		copy(a[18:], dstMAC[:])
	}
	copy(a[24:], dst.AsSlice())
	return p
}

// nd takes an IPv6 packet with a solicitation or an advertisement.
func (r resolution) nd(in *iface, b []byte) error {
	src, dst := addresses(b, ip6)
	m := b[40:]
	if len(m) < ndLength || b[7] != 255 || fold(pseudoHeader(src, dst, protocolICMPv6, len(m))+sum16(m)) != 0xffff {
		return errHeader
	}
	target := netip.AddrFrom16([16]byte(m[8:]))
	var mac hardwareAddr
	for o := m[ndLength:]; len(o) >= 8 && int(o[1])*8 <= len(o) && o[1] != 0; o = o[int(o[1])*8:] {
		if o[0] == 1 || o[0] == 2 { // source or target link-layer address
			mac = hardwareAddr(o[2:])
		}
	}
	v := r.s.view(in)
	switch {
	case mac == hardwareAddr{}:
		return nil
	case m[0] == icmpNeighborAdvertisement:
		if !v.has(target) {
			in.learned.add(target, mac)
		}
		return nil
	case !v.has(target):
		return nil
	}
	in.learned.add(src, mac)
	return r.s.send(in, ndFrame(icmpNeighborAdvertisement, v.mac, target, mac, src, target))
}

// ndFrame is a solicitation for target or an advertisement of it.
func ndFrame(kind byte, srcMAC hardwareAddr, src netip.Addr, dstMAC hardwareAddr, dst, target netip.Addr) *packet {
	p := newPacket()
	p.off, p.end = headroom+ethernetHeader+40, headroom+ethernetHeader+40+ndLength+8
	m := p.bytes()
	m[0] = kind
	copy(m[8:], target.AsSlice())
	m[ndLength], m[ndLength+1] = 1, 1
	if kind == icmpNeighborAdvertisement {
		m[4], m[ndLength] = 0x60, 2 // solicited, override
	}
	copy(m[ndLength+2:], srcMAC[:])
	binary.BigEndian.PutUint16(m[2:], ^fold(pseudoHeader(src, dst, protocolICMPv6, len(m))+sum16(m)))
	p.putIP(src, dst, protocolICMPv6, 255)
	p.shift(-ethernetHeader)
	b := p.bytes()
	copy(b, dstMAC[:])
	copy(b[6:], srcMAC[:])
	binary.BigEndian.PutUint16(b[12:], etherIPv6)
	return p
}

// solicit asks on the link of i for addr.
func (s *Server) solicit(i *iface, addr netip.Addr) {
	v := s.view(i)
	own, _ := v.on(addr)
	if !i.eth || !own.IsValid() || !i.learned.ask(addr) {
		return
	}
	if addr.Is4() {
		_ = s.send(i, arpFrame(arpRequest, v.mac, own, broadcast, addr)) // asked again with the next packet
		return
	}
	last := addr.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: last[13], 14: last[14], 15: last[15]}) // solicited-node
	_ = s.send(i, ndFrame(icmpNeighborSolicitation, v.mac, own, hardwareAddr{0x33, 0x33, 0xff, last[13], last[14], last[15]}, group, addr))
}

var broadcast = hardwareAddr(bytes.Repeat([]byte{0xff}, 6))
