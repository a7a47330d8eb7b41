package pocketvpp

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/interface_types"
	"golang.org/x/sys/unix"
)

// devAFPacket is the interface_dev_type of af_packet interfaces.
const devAFPacket = "af-packet"

// socketBuffer lets some dozens of 64 KiB packets wait in either direction.
const socketBuffer = 8 << 20

// afPacket is a port on a kernel interface, by a packet socket bound to it.
type afPacket struct {
	*device
	iface  *iface
	host   string
	ifname int // index of the kernel's interface
	netns  string
	// bypass sends past the kernel's queue, which takes nothing yet for a moment after the interface has come up.
	bypass int
}

// afPacketMessages are those of af_packet.api in their latest versions.
func (s *Server) afPacketMessages(t *table) {
	request(t, s.createAFPacket)
	request(t, func(_ *call, q *af_packet.AfPacketDelete) (p af_packet.AfPacketDeleteReply) {
		port, ok := s.afNames[q.HostIfName]
		if !ok {
			p.Retval = int32(api.SYSCALL_ERROR_1)
			return p
		}
		delete(s.afNames, q.HostIfName)
		s.deleteIface(port.iface)
		return p
	})
	dump(t, func(_ *call, _ *af_packet.AfPacketDump, emit func(af_packet.AfPacketDetails)) {
		for i := range s.ifaces.values() {
			if port, ok := i.port.(*afPacket); ok {
				emit(af_packet.AfPacketDetails{SwIfIndex: interface_types.InterfaceIndex(i.index), HostIfName: port.host})
			}
		}
	})
}

func (s *Server) createAFPacket(_ *call, q *af_packet.AfPacketCreateV3) af_packet.AfPacketCreateV3Reply {
	if q.Mode != af_packet.AF_PACKET_API_MODE_ETHERNET && q.Mode != af_packet.AF_PACKET_API_MODE_IP {
		return af_packet.AfPacketCreateV3Reply{Retval: int32(api.INVALID_VALUE), SwIfIndex: anyIndex}
	}
	if port, ok := s.afNames[q.HostIfName]; ok {
		return af_packet.AfPacketCreateV3Reply{
			Retval: int32(api.IF_ALREADY_EXISTS), SwIfIndex: interface_types.InterfaceIndex(port.iface.index),
		}
	}
	port := &afPacket{host: q.HostIfName, netns: s.cfg.Netns}
	if q.Flags&af_packet.AF_PACKET_API_FLAG_QDISC_BYPASS != 0 {
		port.bypass = 1
	}
	if err := inNetns(s.cfg.Netns, port.open); err != nil {
		s.log.Warn("af_packet", "host interface", q.HostIfName, "error", err)
		return af_packet.AfPacketCreateV3Reply{Retval: retvalOf(err)}
	}
	port.gso = q.Flags&af_packet.AF_PACKET_API_FLAG_CKSUM_GSO != 0
	port.checksum = port.gso
	i := &iface{
		name: "host-" + q.HostIfName, devType: devAFPacket, port: port, link: true,
		linkMTU: ethernetMTU, mtu: [4]uint32{ethernetMTU}, threads: s.spread(int(q.NumRxQueues)),
	}
	i.rxMode = i.defaultRxMode()
	if i.eth = q.Mode == af_packet.AF_PACKET_API_MODE_ETHERNET; i.eth {
		if i.mac = q.HwAddr; q.UseRandomHwAddr {
			i.mac = randomMAC()
		}
	}
	port.iface = i
	s.addIface(i)
	s.afNames[port.host] = port
	s.startDevice(i, port.device)
	return af_packet.AfPacketCreateV3Reply{SwIfIndex: interface_types.InterfaceIndex(i.index)}
}

// open makes the socket; it brings the kernel's interface up, as VPP does.
func (a *afPacket) open(h *netlink.Handle) error {
	link, err := h.LinkByName(a.host)
	if err != nil {
		return failed(api.INVALID_INTERFACE, err)
	}
	a.ifname = link.Attrs().Index
	if err := h.LinkSetUp(link); err != nil {
		return failed(api.SYSCALL_ERROR_1, err)
	}
	// No protocol until it is bound: otherwise it would hear all interfaces first.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed(api.SYSCALL_ERROR_1, os.NewSyscallError("socket", err))
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, a.bypass),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(a.ifname), Type: unix.PACKET_MR_PROMISC}),
		enlarge(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF),
		enlarge(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: a.ifname}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return failed(api.SYSCALL_ERROR_1, fmt.Errorf("packet socket: %w", err))
	}
	if a.device, err = newDevice(fd, "host-"+a.host); err != nil {
		return failed(api.SYSCALL_ERROR_1, err)
	}
	a.device.read = newPacketReader().read
	return nil
}

// enlarge sets a buffer beyond the system's limit, or to the limit where only the system's own root may do more.
func enlarge(fd, force, limited int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, limited, socketBuffer)
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// packetReader reads from a packet socket, with the VLAN tag that the kernel keeps beside the packet.
type packetReader struct {
	message unix.Msghdr
	iov     unix.Iovec
	control [64]byte // aligned, as the fields before it are
}

func newPacketReader() *packetReader {
	r := &packetReader{}
	r.message.Iov, r.message.Iovlen = &r.iov, 1
	r.message.Control = &r.control[0]
	return r
}

func (r *packetReader) read(fd int, p *packet) error {
	b := p.receiveBuffer()
	r.iov.Base = &b[0]
	r.iov.SetLen(len(b))
	r.message.SetControllen(len(r.control))
	r.message.Flags = 0
	size, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&r.message)), 0)
	switch {
	case errno != 0:
		return errno
	case r.message.Flags&unix.MSG_TRUNC != 0:
		return errLength
	}
	if err := p.received(int(size)); err != nil {
		return err
	}
	if aux, ok := auxdata(r.control[:r.message.Controllen]); ok && aux.Status&unix.TP_STATUS_VLAN_VALID != 0 && int(size) >= offloadHeader+ethernetHeader {
		protocol := uint16(unix.ETH_P_8021Q)
		if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			protocol = aux.Vlan_tpid
		}
		p.insertTag(protocol, aux.Vlan_tci)
	}
	return nil
}

// auxdata finds the struct tpacket_auxdata; it is the only control message asked for.
func auxdata(control []byte) (aux unix.TpacketAuxdata, ok bool) {
	var header unix.Cmsghdr
	if len(control) < unix.CmsgSpace(int(unsafe.Sizeof(aux))) {
		return aux, false
	}
	header = *(*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if header.Level != unix.SOL_PACKET || header.Type != unix.PACKET_AUXDATA {
		return aux, false
	}
	return *(*unix.TpacketAuxdata)(unsafe.Pointer(&control[unix.CmsgLen(0)])), true
}

// setAdmin brings the kernel's interface up and down, as VPP does.
func (a *afPacket) setAdmin(up bool) (bool, error) {
	return up, a.withLink(func(h *netlink.Handle, link netlink.Link) error {
		if up {
			return h.LinkSetUp(link)
		}
		return h.LinkSetDown(link)
	})
}

// setMAC changes the address of the kernel's interface, too.
func (a *afPacket) setMAC(mac hardwareAddr) error {
	return a.withLink(func(h *netlink.Handle, link netlink.Link) error {
		return h.LinkSetHardwareAddr(link, slices.Clone(mac[:]))
	})
}

func (a *afPacket) withLink(fn func(*netlink.Handle, netlink.Link) error) error {
	return inNetns(a.netns, func(h *netlink.Handle) error {
		link, err := h.LinkByIndex(a.ifname)
		if err != nil {
			return err
		}
		return fn(h, link)
	})
}
