package pocketvpp

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	etherARP       = 0x0806
	protocolUDP    = 17
	protocolICMPv6 = 58
	udpHeader      = 8
)

var (
	errNoTunnel = errors.New("no tunnel for the packet")
)

// receiver takes packets that are for VPP itself. It is called without locks.
type receiver interface {
	receive(in *iface, p *packet) error
}

// local finds who takes p here, which lies at its IP header. With an l3 cross-connect nothing unicast is for us, as that
// comes first. It is called with Server.fwd read-locked.
func (s *Server) local(in *iface, p *packet, version ipVersion) receiver {
	if in.l3xc[version] != nil {
		return nil
	}
	_, dst := addresses(p.bytes(), version)
	protocol, header := p.transport(version)
	b := p.bytes()[header:]
	if protocol == protocolICMPv6 && version == ip6 && len(b) > 0 && (b[0] == icmpNeighborSolicitation || b[0] == icmpNeighborAdvertisement) {
		return resolution{s}
	}
	if protocol != protocolUDP || len(b) < udpHeader || !s.owns(in, dst) {
		return nil
	}
	return s.udp[binary.BigEndian.Uint16(b[2:])]
}

// owns tells whether VPP has the address, on in or elsewhere.
func (s *Server) owns(in *iface, addr netip.Addr) bool {
	if in.has(addr) {
		return true
	}
	for i := range s.ifaces.values() {
		if i.has(addr) {
			return true
		}
	}
	return false
}

func (i *iface) has(addr netip.Addr) bool {
	for _, p := range i.addresses {
		if p.Addr() == addr {
			return true
		}
	}
	return false
}

// addresses are those of an IP packet.
func addresses(b []byte, version ipVersion) (src, dst netip.Addr) {
	if version == ip4 {
		return netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	}
	return netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
}

// transport is the protocol and where its header begins. Fragments and IPv6 extension headers are nothing to us.
func (p *packet) transport(version ipVersion) (protocol byte, header int) {
	b := p.bytes()
	if version == ip6 {
		return b[6], 40
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return 0, len(b)
	}
	return b[9], int(b[0]&15) * 4
}

// datagram is a received UDP datagram; p lies at its IP header and is left at the payload.
func (p *packet) datagram() (src, dst netip.AddrPort, err error) {
	version := versionOf(p.bytes()[0]>>4 == 6)
	from, to := addresses(p.bytes(), version)
	_, header := p.transport(version)
	b := p.bytes()[header:]
	length := int(binary.BigEndian.Uint16(b[4:]))
	if length < udpHeader || length > len(b) {
		return src, dst, errHeader
	}
	src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b))
	dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:]))
	p.shift(header + udpHeader)
	p.end = p.off + length - udpHeader
	return src, dst, nil
}

// sendUDP puts UDP and IP headers before p and sends it where the routes lead. As in VPP there is no checksum in IPv4.
func (s *Server) sendUDP(p *packet, src, dst netip.AddrPort) error {
	p.shift(-udpHeader)
	b := p.bytes()
	clear(b[:udpHeader])
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	version := versionOf(dst.Addr().Is6())
	if version == ip6 {
		sum := ^fold(pseudoHeader(src.Addr(), dst.Addr(), protocolUDP, len(b)) + sum16(b))
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(b[6:], sum)
	}
	p.putIP(src.Addr(), dst.Addr(), protocolUDP, 254)
	return s.route(p, version, dst.Addr())
}

// pseudoHeader is its sum (RFC 8200, section 8.1).
func pseudoHeader(src, dst netip.Addr, protocol byte, length int) uint64 {
	return sum16(src.AsSlice()) + sum16(dst.AsSlice()) + uint64(protocol) + uint64(length)
}

// putIP puts an IP header before p.
func (p *packet) putIP(src, dst netip.Addr, protocol, ttl byte) {
	length := p.end - p.off
	if dst.Is6() {
		p.shift(-40)
		b := p.bytes()
		clear(b[:8])
		b[0], b[6], b[7] = 0x60, protocol, ttl
		binary.BigEndian.PutUint16(b[4:], uint16(length))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return
	}
	p.shift(-20)
	b := p.bytes()
	clear(b[:20])
	b[0], b[8], b[9] = 0x45, ttl, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+length))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum16(b[:20])))
}

// route sends an IP packet of our own. Where the neighbour is unknown it is asked for, and the packet is lost, as in VPP.
func (s *Server) route(p *packet, version ipVersion, dst netip.Addr) error {
	s.fwd.RLock()
	out, next := s.lookup(dst)
	err := errNoRoute
	switch {
	case out == nil:
	case !out.admin:
		err = errDown
	case int(out.protocolMTU(version)) < len(p.bytes()):
		err = errMTU
	default:
		err = out.rewrite(p, version, next)
	}
	s.fwd.RUnlock()
	if err != nil {
		if errors.Is(err, errNoNeighbor) {
			s.solicit(out, next)
		}
		return err
	}
	return s.send(out, p)
}

// send transmits p and counts it.
func (s *Server) send(i *iface, p *packet) error {
	if s.pcap.on.Load() {
		s.pcap.sent(i, p)
	}
	size := p.end - p.off
	if err := i.port.transmit(p); err != nil {
		i.counters.TxErrors.Add(1)
		return err
	}
	i.counters.TxPackets.Add(1)
	i.counters.TxBytes.Add(uint64(size))
	return nil
}
