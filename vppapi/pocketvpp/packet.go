package pocketvpp

import (
	"encoding/binary"
	"errors"
)

const (
	// headroom leaves space to put before what was received an Ethernet header, a VLAN tag and the offload header, and those of
	// a tunnel in a tunnel.
	headroom = 256
	// maxPacket is the longest packet: a GSO packet of 64 KiB with its link header.
	maxPacket = 64<<10 + 64
	// offloadHeader is the length of struct virtio_net_hdr, which precedes packets on taps and packet sockets.
	offloadHeader = 10
)

// Flags and types of struct virtio_net_hdr (virtio 1.2, section 5.1.6).
const (
	needsChecksum = 1
	gsoNone       = 0
)

// packet is one packet on its way, with room before it. On an Ethernet interface it begins with the Ethernet header, on
// an IP interface with the IP header.
type packet struct {
	buf      []byte
	off, end int
	offload  offload
}

// offload is what struct virtio_net_hdr says: what the sender left to the hardware. A checksum is filled in but for the sum
// over what begins at checksumStart; segments of segmentSize are to be cut.
type offload struct {
	flags, gsoType                                        uint8
	headerLen, segmentSize, checksumStart, checksumOffset uint16
}

func newPacket() *packet { return &packet{buf: make([]byte, headroom+maxPacket)} }

func (p *packet) bytes() []byte { return p.buf[p.off:p.end] }

// receiveBuffer is where to read an offload header with the packet behind it; received makes sense of it.
func (p *packet) receiveBuffer() []byte { return p.buf[headroom-offloadHeader:] }

// received takes the first n bytes of receiveBuffer as a packet.
func (p *packet) received(n int) error {
	if n < offloadHeader {
		return errLength
	}
	h := p.receiveBuffer()
	p.off, p.end = headroom, headroom+n-offloadHeader
	p.offload = offload{
		flags: h[0] & needsChecksum, gsoType: h[1],
		headerLen:      binary.NativeEndian.Uint16(h[2:]),
		segmentSize:    binary.NativeEndian.Uint16(h[4:]),
		checksumStart:  binary.NativeEndian.Uint16(h[6:]),
		checksumOffset: binary.NativeEndian.Uint16(h[8:]),
	}
	return nil
}

// wire is the packet behind its offload header.
func (p *packet) wire() []byte {
	h := p.buf[p.off-offloadHeader : p.end]
	o := &p.offload
	h[0], h[1] = o.flags, o.gsoType
	binary.NativeEndian.PutUint16(h[2:], o.headerLen)
	binary.NativeEndian.PutUint16(h[4:], o.segmentSize)
	binary.NativeEndian.PutUint16(h[6:], o.checksumStart)
	binary.NativeEndian.PutUint16(h[8:], o.checksumOffset)
	return h
}

// shift moves the start of the packet by n bytes: forward over a header, or back to make room for one.
func (p *packet) shift(n int) {
	p.off += n
	if p.offload.flags&needsChecksum != 0 {
		p.offload.checksumStart -= uint16(n)
	}
	if p.offload.headerLen != 0 {
		p.offload.headerLen -= uint16(n)
	}
}

// insertTag puts back a VLAN tag that the kernel took out.
func (p *packet) insertTag(protocol, tci uint16) {
	p.shift(-4)
	b := p.bytes()
	copy(b, b[4:16])
	binary.BigEndian.PutUint16(b[12:], protocol)
	binary.BigEndian.PutUint16(b[14:], tci)
}

var (
	errLength   = errors.New("packet too short or too long")
	errNoGSO    = errors.New("gso packet to an interface without gso")
	errChecksum = errors.New("checksum outside of the packet")
)

// settle does in software what the sender left to hardware and the receiver does not take; VPP drops gso packets then.
func (p *packet) settle(checksum, gso bool) error {
	o := &p.offload
	if o.gsoType != gsoNone && !gso {
		return errNoGSO
	}
	if o.flags&needsChecksum == 0 {
		return nil
	}
	b := p.bytes()
	start, at := int(o.checksumStart), int(o.checksumStart)+int(o.checksumOffset)
	if start > len(b) || at+2 > len(b) {
		return errChecksum
	}
	if checksum {
		return nil
	}
	// The field holds the sum of the pseudo header; zero means "none" in UDP, so a sum of zero is sent as all ones.
	sum := ^fold(sum16(b[start:]))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	p.offload = offload{}
	return nil
}

// sum16 adds up b in 16-bit words (RFC 1071).
func sum16(b []byte) uint64 {
	var sum uint64
	for len(b) >= 4 {
		sum += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}

func fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
