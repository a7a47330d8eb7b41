package pocketvpp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
)

const (
	ethernetHeader = 14
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
)

// ipVersion picks one of two tables.
type ipVersion int

const (
	ip4 ipVersion = iota
	ip6
)

func versionOf(isIP6 bool) ipVersion {
	if isIP6 {
		return ip6
	}
	return ip4
}

// Reasons to drop a packet, after VPP's error counters.
var (
	errDown        = errors.New("interface is down")
	errMAC         = errors.New("l3 mac mismatch")
	errEtherType   = errors.New("unknown ethernet type")
	errHeader      = errors.New("bad ip header")
	errTTL         = errors.New("ttl expired")
	errMTU         = errors.New("packet exceeds mtu")
	errNoRoute     = errors.New("no route")
	errNoNeighbor  = errors.New("no neighbor")
	errMulticast   = errors.New("ip multicast is not forwarded")
	errNotEthernet = errors.New("no ethernet interface")
)

// dropCounters are the counters, "NODE/NAME" under /err, of each reason to drop.
var dropCounters = map[error]string{
	errDown:        "interface-output/interface is down",
	errMAC:         "ethernet-input/l3 mac mismatch",
	errEtherType:   "ethernet-input/unknown ethernet type",
	errHeader:      "ip4-input/bad ip header",
	errTTL:         "ip4-input/ip4 ttl <= 1",
	errMTU:         "ip4-rewrite/packet exceeds mtu",
	errNoRoute:     "ip4-drop/no route",
	errNoNeighbor:  "ip4-arp/no neighbor",
	errMulticast:   "ip4-drop/ip multicast is not forwarded",
	errNotEthernet: "interface-output/no ethernet interface",
}

// input takes a packet that a port received: it is forwarded, or dropped and counted. Ports call it from their goroutines.
func (s *Server) input(in *iface, p *packet) {
	s.fwd.RLock()
	if !in.admin {
		s.fwd.RUnlock()
		return
	}
	in.counters.RxPackets.Add(1)
	in.counters.RxBytes.Add(uint64(p.end - p.off))
	traced := func(*iface, error) {}
	if s.tracer.on.Load() {
		traced = s.tracePacket(in, p)
	}
	if s.pcap.on.Load() {
		s.pcap.received(in, p)
	}
	out, here, err := s.forward(in, p)
	traced(out, err)
	s.fwd.RUnlock()
	switch {
	case err != nil:
	case here != nil:
		err = here.receive(in, p)
	default:
		_ = s.send(out, p) // counted there
	}
	if err != nil {
		in.counters.Drops.Add(1)
		if name, known := dropCounters[err]; known {
			s.stats.Error(name).Add(1)
		}
	}
}

// forward decides where p goes and makes it ready for there: out of an interface, or to a receiver of our own.
func (s *Server) forward(in *iface, p *packet) (out *iface, here receiver, err error) {
	if out := in.xconnect; out != nil {
		if !out.admin {
			return nil, nil, errDown
		}
		if in.eth != out.eth {
			return nil, nil, errNotEthernet
		}
		return out, nil, nil
	}
	if len(in.addresses) > 0 && in.eth && p.end-p.off > ethernetHeader && binary.BigEndian.Uint16(p.bytes()[12:]) == etherARP {
		p.shift(ethernetHeader)
		return nil, resolution{s}, nil
	}
	version, err := in.toIP(p)
	if err != nil {
		return nil, nil, err
	}
	if err := trimIP(p, version); err != nil {
		return nil, nil, err
	}
	if len(in.addresses) > 0 {
		if here := s.local(in, p, version); here != nil {
			return nil, here, nil
		}
	}
	out, err = in.routeIP(p, version)
	return out, nil, err
}

// toIP strips the Ethernet header of a packet that is for this interface and leaves an IP packet.
func (in *iface) toIP(p *packet) (ipVersion, error) {
	b := p.bytes()
	if !in.eth {
		switch {
		case len(b) > 0 && b[0]>>4 == 4:
			return ip4, nil
		case len(b) > 0 && b[0]>>4 == 6:
			return ip6, nil
		}
		return 0, errHeader
	}
	if len(b) < ethernetHeader {
		return 0, errHeader
	}
	if multicast := b[0]&1 != 0; !multicast && !bytes.Equal(b[:6], in.mac[:]) {
		return 0, errMAC
	}
	etherType := binary.BigEndian.Uint16(b[12:])
	p.shift(ethernetHeader)
	switch etherType {
	case etherIPv4:
		return ip4, nil
	case etherIPv6:
		return ip6, nil
	}
	return 0, errEtherType
}

// routeIP sends an IP packet along the l3 cross-connect.
func (in *iface) routeIP(p *packet, version ipVersion) (*iface, error) {
	b := p.bytes()
	xc := in.l3xc[version]
	if isMulticast(b, version) {
		return nil, errMulticast // VPP has features of unicast and multicast apart, and l3xc is one of unicast
	}
	if xc == nil || xc.via.out == nil {
		return nil, errNoRoute
	}
	out := xc.via.out
	if !out.admin {
		return nil, errDown
	}
	if int(out.protocolMTU(version)) < p.segmentLen(version) {
		return nil, errMTU
	}
	if version == ip4 {
		if b[8] <= 1 {
			return nil, errTTL
		}
		b[8]--
		// RFC 1624: the sum grows by what the word of TTL and protocol lost.
		sum := uint64(binary.BigEndian.Uint16(b[10:])) + 0x0100
		binary.BigEndian.PutUint16(b[10:], fold(sum))
	} else {
		if b[7] <= 1 {
			return nil, errTTL
		}
		b[7]--
	}
	return out, out.rewrite(p, version, xc.via.nextHop)
}

// trimIP checks the IP header and cuts what follows the packet, such as Ethernet padding.
func trimIP(p *packet, version ipVersion) error {
	b := p.bytes()
	var length int
	if version == ip4 {
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || len(b) < int(b[0]&15)*4 || fold(sum16(b[:int(b[0]&15)*4])) != 0xffff {
			return errHeader
		}
		length = int(binary.BigEndian.Uint16(b[2:]))
	} else {
		if len(b) < 40 || b[0]>>4 != 6 {
			return errHeader
		}
		length = 40 + int(binary.BigEndian.Uint16(b[4:]))
	}
	if length > len(b) {
		return errHeader
	}
	if p.offload.gsoType == gsoNone {
		p.end = p.off + length
	}
	return nil
}

func isMulticast(b []byte, version ipVersion) bool {
	if version == ip4 {
		return b[16]>>4 == 0xe || binary.BigEndian.Uint32(b[16:]) == ^uint32(0)
	}
	return b[24] == 0xff
}

// segmentLen is the length of the IP packet, or of each that will be cut from it.
func (p *packet) segmentLen(version ipVersion) int {
	b := p.bytes()
	o := &p.offload
	if o.gsoType == gsoNone {
		return len(b)
	}
	header := int(o.headerLen)
	if tcp := int(o.checksumStart); o.flags&needsChecksum != 0 && o.checksumOffset == 16 && tcp+13 <= len(b) {
		header = tcp + int(b[tcp+12]>>4)*4
	}
	return header + int(o.segmentSize)
}

// protocolMTU is the MTU for packets of that version; where none is set the one of layer 3 counts, and a tunnel with neither
// takes all.
func (i *iface) protocolMTU(version ipVersion) uint32 {
	if m := i.mtu[1+version]; m != 0 {
		return m
	}
	if i.mtu[0] == 0 && i.devType == devWireGuard {
		return maxPacket
	}
	return i.mtu[0]
}

// rewrite puts the header of the out interface before an IP packet.
func (i *iface) rewrite(p *packet, version ipVersion, nextHop netip.Addr) error {
	if !i.eth {
		return nil
	}
	mac, ok := i.learned.find(nextHop)
	if n, static := i.neighbors[nextHop]; static {
		mac, ok = n.mac, true
	}
	if !ok {
		return errNoNeighbor
	}
	p.shift(-ethernetHeader)
	b := p.bytes()
	copy(b, mac[:])
	copy(b[6:], i.mac[:])
	etherType := uint16(etherIPv4)
	if version == ip6 {
		etherType = etherIPv6
	}
	binary.BigEndian.PutUint16(b[12:], etherType)
	return nil
}
