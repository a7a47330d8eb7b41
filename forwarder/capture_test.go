package forwarder_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"highwire/mechanisms"
)

// capture is every frame on the interface between the nodes, in both directions, until it is stopped.
func capture(t *testing.T, n *node) (stop func() [][]byte) {
	t.Helper()
	var fd int
	if err := n.Do(func() error {
		link, err := net.InterfaceByName(uplinkName)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var frames [][]byte
	var reader sync.WaitGroup
	reader.Go(func() {
		defer unix.Close(fd)
		b := make([]byte, 65536)
		for {
			size, _, err := unix.Recvfrom(fd, b, 0)
			if err == nil {
				frames = append(frames, bytes.Clone(b[:size]))
				continue
			}
			select {
			case <-done: // and what was there has been read
				return
			default:
			}
		}
	})
	return func() [][]byte {
		close(done)
		reader.Wait()
		return frames
	}
}

// outer is what a captured frame says above its Ethernet header.
type outer struct {
	datagram         bool
	src, dst         netip.AddrPort
	fragment, checks bool
	payload          []byte
}

// decode reads IPv4 and IPv6 with UDP.
func decode(f []byte) (o outer) {
	if len(f) < 14+28 {
		return o
	}
	ip := f[14:]
	var src, dst netip.Addr
	var udp []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_IP:
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
		o.fragment = binary.BigEndian.Uint16(ip[6:])&0x3fff != 0
		if ip[9] != unix.IPPROTO_UDP {
			return o
		}
		udp = ip[int(ip[0]&15)*4 : binary.BigEndian.Uint16(ip[2:])]
	case unix.ETH_P_IPV6:
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		if ip[6] != unix.IPPROTO_UDP {
			o.fragment = ip[6] == unix.IPPROTO_FRAGMENT
			return o
		}
		udp = ip[40 : 40+int(binary.BigEndian.Uint16(ip[4:]))]
	default:
		return o
	}
	o.datagram = true
	o.src, o.dst = netip.AddrPortFrom(src, binary.BigEndian.Uint16(udp)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(udp[2:]))
	o.checks = dst.Is4() && binary.BigEndian.Uint16(udp[6:]) == 0 || udpSum(src, dst, udp) == 0xffff
	o.payload = udp[8:]
	return o
}

func udpSum(src, dst netip.Addr, udp []byte) uint32 {
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, unix.IPPROTO_UDP, byte(len(udp)>>8), byte(len(udp)))
	var sum uint32
	for _, part := range [][]byte{pseudo, udp} {
		for i := 0; i < len(part); i += 2 {
			word := uint32(part[i]) << 8
			if i+1 < len(part) {
				word |= uint32(part[i+1])
			}
			sum += word
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

// TestOnTheWire: between the nodes there are tunnels and questions for neighbours only; vxlan is as RFC 7348 has it, and
// WireGuard shows nothing of what it carries. Nothing is fragmented.
func TestOnTheWire(t *testing.T) {
	onNodes(t, func(t *testing.T, nodes [2]*node) {
		ctx := within(t, 3*time.Minute)
		kinds := [2]string{mechanisms.Kernel, mechanisms.Kernel}
		for _, way := range tunnels {
			for _, family := range []string{"ip4", "ip6"} {
				t.Run(fmt.Sprintf("%s-%s-%s", way.typ, way.payload, family), func(t *testing.T) {
					stop := capture(t, nodes[0])
					r := newRemote(t, nodes, "w", way.typ, family == "ip6", kinds, way.payload, families["dual"])
					r.set(t)
					r.pair.reaches(ctx, t, families["dual"][1])
					marker := bytes.Repeat([]byte("never seen in clear "), r.mtu/20+1)[:r.mtu-28]
					r.deliver(t, families["dual"][1][0].Addr(), marker)
					frames := stop()
					for _, n := range nodes {
						n.explain(t)
					}
					clear := r.check(t, frames, marker[:40])
					if want := way.typ == mechanisms.VXLAN; (clear > 0) != want {
						t.Errorf("%s: %d of %d frames show what they carry", way.typ, clear, len(frames))
					}
					r.remove(t)
				})
			}
		}
	})
}

// check looks at each frame, and counts those in which the marker stands.
func (r *remote) check(t *testing.T, frames [][]byte, marker []byte) (clear int) {
	t.Helper()
	params := r.vwires[0].Endpoint.Params
	carried := 0
	for _, f := range frames {
		if bytes.Contains(f, marker) {
			clear++
		}
		o := decode(f)
		switch {
		case o.fragment:
			t.Errorf("a fragment: %x", f[:64])
		case !o.datagram:
			continue
		case !o.checks:
			t.Errorf("from %s to %s: wrong UDP checksum", o.src, o.dst)
		case r.vwires[0].Endpoint.Type == mechanisms.VXLAN:
			vni, _ := strconv.Atoi(params[mechanisms.ParamVNI])
			header := [8]byte{0x08, 4: byte(vni >> 16), byte(vni >> 8), byte(vni)}
			if o.dst.Port() != 4789 || len(o.payload) < 8+14 || [8]byte(o.payload) != header {
				t.Errorf("from %s to %s: no vxlan header %x of RFC 7348: %x", o.src, o.dst, header, o.payload[:min(len(o.payload), 22)])
			}
			carried++
		default:
			ports := map[string]bool{params[mechanisms.ParamSrcPort]: true, params[mechanisms.ParamDstPort]: true}
			if !ports[strconv.Itoa(int(o.dst.Port()))] {
				t.Errorf("from %s to %s: not a port that was agreed", o.src, o.dst)
			}
			if len(o.payload) < 32 || binary.LittleEndian.Uint32(o.payload) == 0 || binary.LittleEndian.Uint32(o.payload) > 4 {
				t.Errorf("from %s to %s: no WireGuard message: %x", o.src, o.dst, o.payload[:min(len(o.payload), 16)])
			}
			carried++
		}
	}
	if carried < 4 {
		t.Errorf("only %d of %d frames are of the tunnel", carried, len(frames))
	}
	return clear
}
