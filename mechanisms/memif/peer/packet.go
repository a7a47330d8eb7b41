package peer

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherIPv6   = 0x86dd

	ip4Header, ip6Header = 20, 40
	protoICMP            = 1
	protoUDP             = 17
	protoICMPv6          = 58
	hopLimit             = 64
)

// sum is the Internet checksum's sum over b, begun with start (RFC 1071).
func sum(start uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	return start
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// pseudo is the sum over the pseudo header of a packet's upper layer (RFC 8200, section 8.1).
func pseudo(src, dst netip.Addr, protocol uint8, length int) uint32 {
	return sum(sum(uint32(protocol)+uint32(length), src.AsSlice()), dst.AsSlice())
}

// packet puts IP and, unless L3, Ethernet headers before an upper layer of that size, which the caller fills. It returns the
// whole and the upper layer in it.
func (p *Peer) packet(to net.HardwareAddr, src, dst netip.Addr, protocol, hops uint8, size int) (whole, upper []byte) {
	ether, header := etherHeader, ip4Header
	if p.cfg.L3 {
		ether = 0
	}
	if dst.Is6() {
		header = ip6Header
	}
	whole = make([]byte, ether+header+size)
	ip := whole[ether:]
	if dst.Is6() {
		ip[0] = 0x60
		binary.BigEndian.PutUint16(ip[4:], uint16(size))
		ip[6], ip[7] = protocol, hops
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
	} else {
		ip[0] = 0x45
		binary.BigEndian.PutUint16(ip[2:], uint16(header+size))
		ip[6] = 0x40 // do not fragment
		ip[8], ip[9] = hops, protocol
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], fold(sum(0, ip[:header])))
	}
	if !p.cfg.L3 {
		kind := uint16(etherIPv4)
		if dst.Is6() {
			kind = etherIPv6
		}
		p.ether(whole, to, kind)
	}
	return whole, ip[header:]
}

// ether fills an Ethernet header.
func (p *Peer) ether(frame []byte, to net.HardwareAddr, kind uint16) {
	copy(frame, to)
	copy(frame[6:], p.cfg.MAC)
	binary.BigEndian.PutUint16(frame[12:], kind)
}

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
)

// multicast is the Ethernet address of an IPv6 group (RFC 2464, section 7).
func multicast(group netip.Addr) net.HardwareAddr {
	a := group.As16()
	return net.HardwareAddr{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// arp is an ARP packet for IPv4 over Ethernet in its frame (RFC 826).
func (p *Peer) arp(operation uint16, to net.HardwareAddr, src, dst netip.Addr) []byte {
	frame := make([]byte, etherHeader+28)
	p.ether(frame, to, etherARP)
	b := frame[etherHeader:]
	copy(b, []byte{0, 1, 8, 0, 6, 4})
	binary.BigEndian.PutUint16(b[6:], operation)
	copy(b[8:], p.cfg.MAC)
	copy(b[14:], src.AsSlice())
	if operation == arpReply {
		copy(b[18:], to)
	}
	copy(b[24:], dst.AsSlice())
	return frame
}

const (
	arpRequest = 1
	arpReply   = 2

	ndSolicitation  = 135
	ndAdvertisement = 136
	ndSourceOption  = 1
	ndTargetOption  = 2
)

// neighborDiscovery is a solicitation or an advertisement for target with our link-layer address (RFC 4861, section 4.3).
func (p *Peer) neighborDiscovery(kind uint8, flags byte, to net.HardwareAddr, src, dst, target netip.Addr) []byte {
	whole, b := p.packet(to, src, dst, protoICMPv6, 255, 32)
	b[0], b[4] = kind, flags
	copy(b[8:], target.AsSlice())
	b[24], b[25] = ndTargetOption, 1
	if kind == ndSolicitation {
		b[24] = ndSourceOption
	}
	copy(b[26:], p.cfg.MAC)
	binary.BigEndian.PutUint16(b[2:], fold(sum(pseudo(src, dst, protoICMPv6, len(b)), b)))
	return whole
}

// replaced is an Internet checksum after one of its words has changed (RFC 1624).
func replaced(check, before, after uint16) uint16 {
	return fold(uint32(^check) + uint32(^before) + uint32(after))
}
