package peer

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// own tells whether the address is one to answer for.
func (p *Peer) own(a netip.Addr) bool {
	for _, prefix := range p.cfg.Addresses {
		if prefix.Addr() == a {
			return true
		}
	}
	return false
}

// handle looks at a received packet and answers it, changing b. What it does not know it leaves alone.
func (p *Peer) handle(b []byte) {
	if p.cfg.Take != nil {
		p.cfg.Take(b)
		return
	}
	if p.cfg.L3 {
		if len(b) > 0 {
			p.handleIP(b, b, b[0]>>4 == 6)
		}
		return
	}
	if len(b) < etherHeader || b[0]&1 == 0 && !bytes.Equal(b[:6], p.cfg.MAC) {
		return
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherARP:
		p.handleARP(b[etherHeader:])
	case etherIPv4:
		p.handleIP(b, b[etherHeader:], false)
	case etherIPv6:
		p.handleIP(b, b[etherHeader:], true)
	}
}

func (p *Peer) handleARP(b []byte) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	mac := bytes.Clone(b[8:14])
	p.found(sender, mac)
	if binary.BigEndian.Uint16(b[6:]) == arpRequest && p.own(target) {
		p.send(p.arp(arpReply, mac, target, sender))
	}
}

// handleIP takes the IP packet in a frame; with L3 both are the same.
func (p *Peer) handleIP(frame, ip []byte, v6 bool) {
	var src, dst netip.Addr
	var protocol byte
	var upper []byte
	if v6 {
		if len(ip) < ip6Header || ip[0]>>4 != 6 || ip6Header+int(binary.BigEndian.Uint16(ip[4:])) > len(ip) {
			return
		}
		protocol = ip[6]
		upper = ip[ip6Header : ip6Header+int(binary.BigEndian.Uint16(ip[4:]))]
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	} else {
		// A packet with options, or a fragment, is none of ours.
		if len(ip) < ip4Header || ip[0] != 0x45 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return
		}
		length := int(binary.BigEndian.Uint16(ip[2:]))
		if length < ip4Header || length > len(ip) {
			return
		}
		protocol, upper = ip[9], ip[ip4Header:length]
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	}
	if len(upper) < 8 {
		return
	}
	switch {
	case v6 && protocol == protoICMPv6 && (upper[0] == ndSolicitation || upper[0] == ndAdvertisement):
		if !p.cfg.L3 && ip[7] == 255 {
			p.handleND(frame[6:12], src, upper)
		}
	case protocol == protoICMPv6 && v6 && p.own(dst):
		p.handleEcho(frame, ip, upper, src, ping6)
	case protocol == protoICMP && !v6 && p.own(dst):
		p.handleEcho(frame, ip, upper, src, ping4)
	}
}

func (p *Peer) handleND(mac net.HardwareAddr, src netip.Addr, b []byte) {
	if len(b) < 24 {
		return
	}
	target := netip.AddrFrom16([16]byte(b[8:]))
	if b[0] == ndAdvertisement {
		if len(b) >= 32 && b[24] == ndTargetOption && b[25] == 1 {
			mac = b[26:32]
		}
		p.found(target, bytes.Clone(mac))
		return
	}
	if !p.own(target) {
		return
	}
	const solicited, override = 0x40, 0x20
	if src.IsUnspecified() { // somebody asks whether the address is free
		p.send(p.neighborDiscovery(ndAdvertisement, override, multicast(allNodes), target, allNodes, target))
		return
	}
	p.send(p.neighborDiscovery(ndAdvertisement, solicited|override, bytes.Clone(mac), target, src, target))
}

// ping4 and ping6 are the types of echo messages, request and reply (RFC 792, RFC 4443).
var (
	ping4 = [2]byte{8, 0}
	ping6 = [2]byte{128, 129}
)

// handleEcho turns a request into its reply and hands a reply to whoever waits for it.
func (p *Peer) handleEcho(frame, ip, upper []byte, src netip.Addr, types [2]byte) {
	switch upper[0] {
	case types[1]:
		p.answered(echo{src, binary.BigEndian.Uint16(upper[6:]), time.Now()}, binary.BigEndian.Uint16(upper[4:]))
	case types[0]:
		before := binary.BigEndian.Uint16(upper)
		upper[0] = types[1]
		binary.BigEndian.PutUint16(upper[2:], replaced(binary.BigEndian.Uint16(upper[2:]), before, binary.BigEndian.Uint16(upper)))
		if types == ping6 {
			ip[7] = hopLimit
			swap(ip[8:24], ip[24:40])
		} else {
			ip[8] = hopLimit
			swap(ip[12:16], ip[16:20])
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], fold(sum(0, ip[:ip4Header])))
		}
		if !p.cfg.L3 {
			copy(frame, frame[6:12])
			copy(frame[6:], p.cfg.MAC)
		}
		p.send(frame)
	}
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
