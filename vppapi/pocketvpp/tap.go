package pocketvpp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/tapv2"
	"golang.org/x/sys/unix"
)

// devTap is the interface_dev_type of taps.
const devTap = "virtio"

const (
	// tapMaxInstance is VPP's TAP_MAX_INSTANCE.
	tapMaxInstance = 1024 * 1024
	// tunMTU is VPP's TUN_DEFAULT_PACKET_BYTES.
	tunMTU         = 1500
	defaultTapRing = 256
)

// tap is a port on a kernel tap or tun device. VPP moves its packets by vhost-net; here it is read and written, so no
// /dev/vhost-net is needed.
type tap struct {
	*device
	iface *iface
	// details is what sw_interface_tap_v2_dump tells.
	details tapv2.SwInterfaceTapV2Details
}

// tapMessages are those of tapv2.api in their latest versions.
func (s *Server) tapMessages(t *table) {
	request(t, s.createTap)
	request(t, func(_ *call, q *tapv2.TapDeleteV2) (p tapv2.TapDeleteV2Reply) {
		i, rv := s.find(q.SwIfIndex)
		if i == nil {
			p.Retval = rv
			return p
		}
		port, ok := i.port.(*tap)
		if !ok {
			p.Retval = int32(api.INVALID_SW_IF_INDEX)
			return p
		}
		delete(s.tapIDs, port.details.ID)
		s.deleteIface(i)
		return p
	})
	dump(t, func(_ *call, q *tapv2.SwInterfaceTapV2Dump, emit func(tapv2.SwInterfaceTapV2Details)) {
		for i := range s.ifaces.values() {
			if port, ok := i.port.(*tap); ok && (q.SwIfIndex == anyIndex || uint32(q.SwIfIndex) == i.index) {
				emit(port.details)
			}
		}
	})
}

// step is an error with the retval VPP answers where that step fails.
type step struct {
	retval api.VPPApiError
	err    error
}

func (e *step) Error() string { return fmt.Sprintf("%v (answered %d)", e.err, int32(e.retval)) }
func (e *step) Unwrap() error { return e.err }

// failed wraps err for retval; a nil err stays nil.
func failed(retval api.VPPApiError, err error) error {
	if err == nil {
		return nil
	}
	return &step{retval, err}
}

// retvalOf is the retval that err stands for.
func retvalOf(err error) int32 {
	if s := (*step)(nil); errors.As(err, &s) {
		return int32(s.retval)
	}
	return int32(api.UNSPECIFIED)
}

func (s *Server) createTap(_ *call, q *tapv2.TapCreateV3) tapv2.TapCreateV3Reply {
	port, err := s.openTap(q)
	if err != nil {
		s.log.Warn("tap", "host interface", q.HostIfName, "namespace", q.HostNamespace, "error", err)
		return tapv2.TapCreateV3Reply{Retval: retvalOf(err), SwIfIndex: anyIndex}
	}
	i := port.iface
	s.addIface(i)
	s.tapIDs[port.details.ID] = port
	port.details.SwIfIndex = i.index
	s.startDevice(i, port.device)
	return tapv2.TapCreateV3Reply{SwIfIndex: interface_types.InterfaceIndex(i.index)}
}

// openTap makes the device and its interface.
func (s *Server) openTap(q *tapv2.TapCreateV3) (*tap, error) {
	id := q.ID
	if id == ^uint32(0) {
		for id = 0; s.tapIDs[id] != nil; id++ {
		}
	} else if s.tapIDs[id] != nil {
		return nil, failed(api.INVALID_INTERFACE, fmt.Errorf("tap id %d exists", id))
	}
	if id > tapMaxInstance {
		return nil, failed(api.UNSPECIFIED, fmt.Errorf("tap id %d is above %d", id, tapMaxInstance))
	}
	isTun := q.TapFlags&tapv2.TAP_API_FLAG_TUN != 0
	i := &iface{
		name: fmt.Sprintf("tap%d", id), devType: devTap, eth: !isTun, link: true, tag: q.Tag[:min(len(q.Tag), maxTag)],
		linkMTU: ethernetMTU, mtu: [4]uint32{ethernetMTU}, mac: q.MacAddress,
	}
	i.rxMode = i.defaultRxMode()
	hostMAC := q.HostMacAddr
	if isTun {
		i.name, i.mac = fmt.Sprintf("tun%d", id), hardwareAddr{}
		i.linkMTU = tunMTU
		if q.HostMtuSet && q.HostMtuSize != 0 {
			i.linkMTU = uint16(q.HostMtuSize)
		}
		i.mtu[0] = uint32(i.linkMTU)
	} else {
		if q.UseRandomMac {
			i.mac = randomMAC()
		}
		if hostMAC == (hardwareAddr{}) {
			hostMAC = randomMAC()
		}
	}
	path := s.cfg.Netns
	if q.HostNamespaceSet {
		path = netnsPath(q.HostNamespace)
	}
	port := &tap{iface: i}
	err := inNetns(path, func(h *netlink.Handle) (err error) {
		var host string
		if port.device, host, err = openTun(q); err != nil {
			return err
		}
		if err := configureTap(h, host, hostMAC, q); err != nil {
			_ = port.file.Close()
			return err
		}
		port.details.HostIfName = host
		return nil
	})
	if _, known := err.(*step); err != nil && !known {
		err = failed(api.SYSCALL_ERROR_2, err) // the namespace
	}
	if err != nil {
		return nil, err
	}
	i.port = port
	port.gso = q.TapFlags&tapv2.TAP_API_FLAG_GSO != 0
	port.checksum = port.gso || q.TapFlags&tapv2.TAP_API_FLAG_CSUM_OFFLOAD != 0
	d := &port.details
	d.ID, d.TapFlags, d.DevName, d.HostMacAddr = id, q.TapFlags, i.name, hostMAC
	d.RxRingSz, d.TxRingSz = orRing(q.RxRingSz), orRing(q.TxRingSz)
	if q.HostMtuSet {
		d.HostMtuSize = q.HostMtuSize
	}
	if q.HostNamespaceSet {
		d.HostNamespace = q.HostNamespace
	}
	if q.HostBridgeSet && !isTun {
		d.HostBridge = q.HostBridge
	}
	if q.HostIP4PrefixSet {
		d.HostIP4Prefix = q.HostIP4Prefix
	}
	if q.HostIP6PrefixSet {
		d.HostIP6Prefix = q.HostIP6Prefix
	}
	return port, nil
}

func orRing(size uint16) uint16 {
	if size == 0 {
		return defaultTapRing
	}
	return size
}

// openTun opens /dev/net/tun as VPP does: with several queues possible, so that a second open of a name that is there
// attaches to it instead of failing.
func openTun(q *tapv2.TapCreateV3) (*device, string, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", failed(api.SYSCALL_ERROR_2, os.NewSyscallError("open /dev/net/tun", err))
	}
	name := ""
	if q.HostIfNameSet {
		name = q.HostIfName
	}
	flags := uint16(unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE | unix.IFF_TAP)
	if q.TapFlags&tapv2.TAP_API_FLAG_TUN != 0 {
		flags ^= unix.IFF_TAP | unix.IFF_TUN
	}
	offloads := 0
	switch {
	case q.TapFlags&tapv2.TAP_API_FLAG_GSO != 0:
		offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	case q.TapFlags&tapv2.TAP_API_FLAG_CSUM_OFFLOAD != 0:
		offloads = unix.TUN_F_CSUM
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(flags)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	}
	if err == nil {
		err = os.NewSyscallError("TUNSETOFFLOAD", unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads))
	}
	if err == nil && q.TapFlags&tapv2.TAP_API_FLAG_PERSIST != 0 {
		err = os.NewSyscallError("TUNSETPERSIST", unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1))
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, "", failed(api.SYSCALL_ERROR_3, err)
	}
	d, err := newDevice(fd, "tap "+ifr.Name())
	return d, ifr.Name(), failed(api.SYSCALL_ERROR_3, err)
}

// configureTap sets what the request asks of the kernel's end.
func configureTap(h *netlink.Handle, name string, mac hardwareAddr, q *tapv2.TapCreateV3) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return failed(api.NETLINK_ERROR, err)
	}
	var errs []error
	if q.TapFlags&tapv2.TAP_API_FLAG_TUN == 0 {
		errs = append(errs, h.LinkSetHardwareAddr(link, mac[:]))
		if q.HostBridgeSet {
			bridge, err := h.LinkByName(q.HostBridge)
			if err != nil {
				return failed(api.NETLINK_ERROR, err)
			}
			errs = append(errs, h.LinkSetMaster(link, bridge))
		}
	}
	if p := q.HostIP4Prefix; q.HostIP4PrefixSet && p.Len != 0 {
		errs = append(errs, addHostAddress(h, link, p.Address[:], int(p.Len)))
	}
	if p := q.HostIP6Prefix; q.HostIP6PrefixSet && p.Len != 0 {
		errs = append(errs, addHostAddress(h, link, p.Address[:], int(p.Len)))
	}
	errs = append(errs, h.LinkSetUp(link))
	if q.HostIP4GwSet {
		errs = append(errs, h.RouteAdd(&netlink.Route{Gw: q.HostIP4Gw[:]}))
	}
	if q.HostIP6GwSet {
		errs = append(errs, h.RouteAdd(&netlink.Route{Gw: q.HostIP6Gw[:]}))
	}
	if q.HostMtuSet {
		errs = append(errs, h.LinkSetMTU(link, int(q.HostMtuSize)))
	}
	return failed(api.NETLINK_ERROR, errors.Join(errs...))
}

func addHostAddress(h *netlink.Handle, link netlink.Link, ip net.IP, length int) error {
	return h.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(length, len(ip)*8)}})
}

// setAdmin: the link of a tap follows its administrative state.
func (*tap) setAdmin(up bool) (bool, error) { return up, nil }

// randomMAC is a locally administered address of the range VPP uses, 02:fe.
func randomMAC() (mac hardwareAddr) {
	_, _ = rand.Read(mac[:])
	mac[0], mac[1] = 0x02, 0xfe
	return mac
}
