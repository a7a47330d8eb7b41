package filter

import (
	"encoding/binary"
	"net/netip"
)

// Link types of pcap that are understood (LINKTYPE_*).
const (
	Ethernet = 1
	RawIP    = 101
)

// Numbers from the headers (IEEE 802, IANA).
const (
	etherIPv4, etherIPv6, etherARP = 0x0800, 0x86dd, 0x0806
	protoICMP, protoTCP, protoUDP  = 1, 6, 17
	protoFragment, protoICMPv6     = 44, 58
	protoSCTP                      = 132
)

// packet is what filters look at. What a packet does not have, or was cut off, is zero.
type packet struct {
	length           int // on the wire
	macSrc, macDst   string
	vlan             bool
	vlanID           uint16
	etherType        uint16
	src, dst         netip.Addr // of IP, or of ARP for IPv4
	proto            int        // of IP; -1 without it
	ports            bool
	srcPort, dstPort uint16
}

func decode(linkType int, b []byte, length int) packet {
	p := packet{length: length, proto: -1}
	if linkType == RawIP {
		if len(b) > 0 && b[0]>>4 == 6 {
			p.etherType = etherIPv6
		} else {
			p.etherType = etherIPv4
		}
	} else {
		if len(b) < 14 {
			return p
		}
		p.macDst, p.macSrc = string(b[:6]), string(b[6:12])
		p.etherType = binary.BigEndian.Uint16(b[12:])
		b = b[14:]
		for (p.etherType == 0x8100 || p.etherType == 0x88a8) && len(b) >= 4 {
			if !p.vlan {
				p.vlan, p.vlanID = true, binary.BigEndian.Uint16(b)&0xfff
			}
			p.etherType = binary.BigEndian.Uint16(b[2:])
			b = b[4:]
		}
	}
	switch p.etherType {
	case etherIPv4:
		p.ipv4(b)
	case etherIPv6:
		p.ipv6(b)
	case etherARP:
		if len(b) >= 28 && binary.BigEndian.Uint16(b[2:]) == etherIPv4 {
			p.src, p.dst = netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
		}
	}
	return p
}

func (p *packet) ipv4(b []byte) {
	if len(b) < 20 {
		return
	}
	p.proto = int(b[9])
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	if header := int(b[0]&15) * 4; binary.BigEndian.Uint16(b[6:])&0x1fff == 0 && header >= 20 && header <= len(b) {
		p.transport(b[header:])
	}
}

func (p *packet) ipv6(b []byte) {
	if len(b) < 40 {
		return
	}
	p.proto = int(b[6])
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	b = b[40:]
	// Hop-by-hop, routing and destination options come before the protocol, each with its length.
	for p.proto == 0 || p.proto == 43 || p.proto == 60 {
		if len(b) < 8 || len(b) < int(b[1])*8+8 {
			return
		}
		p.proto, b = int(b[0]), b[int(b[1])*8+8:]
	}
	if p.proto == protoFragment && len(b) >= 8 {
		p.proto = int(b[0])
		if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
			return
		}
		b = b[8:]
	}
	p.transport(b)
}

func (p *packet) transport(b []byte) {
	if (p.proto == protoTCP || p.proto == protoUDP || p.proto == protoSCTP) && len(b) >= 4 {
		p.ports, p.srcPort, p.dstPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
}
