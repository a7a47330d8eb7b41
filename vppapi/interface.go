package vppapi

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/af_packet"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/tapv2"

	"highwire/vppapi/fault"
)

// held is an Object that VPP holds. Messages that make it may use the indexes of what it Uses; those that remove it also
// its own.
type held interface {
	Object
	create(at indexes) ([]call, error)
	remove(at indexes) ([]call, error)
}

// adopter is a held object whose dump does not show everything about it.
type adopter interface {
	// adopts tells whether what a dump found can serve as this object.
	adopts(found Object) bool
}

// indexes resolves an interface to the sw_if_index VPP gave it.
type indexes func(Key) (interface_types.InterfaceIndex, error)

// HardwareAddr is a MAC in its comparable form.
type HardwareAddr [6]byte

// String is the colon form.
func (h HardwareAddr) String() string { return net.HardwareAddr(h[:]).String() }

// AFPacket is VPP's side of a kernel interface in VPP's own namespace (af_packet_create_v3).
type AFPacket struct {
	// Name of the end, "<vwire>:<side>".
	Name string
	// Host is the kernel interface, at most 15 bytes.
	Host string
	// MAC of VPP's interface.
	MAC HardwareAddr
	// Offload passes checksum and segmentation work through (CKSUM_GSO).
	Offload bool
	// Queues bounds the number of queues in each direction, see KernelQueues.
	Queues uint8
}

// Ring sizes. VPP makes 160 receive blocks and one transmit block of frame size times frames; its defaults are 10 MB and
// 69 MB an interface. Received frames are packed into blocks, so a block must hold the largest frame; a transmitted one
// takes a slot of its own.
const (
	rxFrame, rxFrames               = 2048, 32 // 64 KiB blocks
	rxFramesOffload                 = 40       // 80 KiB blocks: a 64 KiB segment with its headers
	txFrame, txFrames               = 10240, 256
	txFrameOffload, txFramesOffload = 33 * 2048, 128
)

// Key is {interface, Name}.
func (a AFPacket) Key() Key { return Interface(a.Name) }

// Uses the kernel link of the same end, if it is one of ours.
func (a AFPacket) Uses() []Key { return []Key{{KindLink, a.Name}} }

func (a AFPacket) String() string {
	return fmt.Sprintf("af_packet %s mac %s", a.Host, a.MAC) + offloadText(a.Offload) + queuesText(a.Queues)
}

func (a AFPacket) adopts(found Object) bool {
	f, ok := found.(AFPacket)
	return ok && f.Host == a.Host
}

func (a AFPacket) stray() string { return a.Host }

// hostPrefix and hostDigits make the names of kernel interfaces that are ours.
const (
	hostPrefix = "hw"
	hostDigits = 12
)

// HostName is a name for a kernel interface of ours in VPP's namespace: "hw" and 12 hexadecimal digits. An af_packet
// interface on one is ours even without a tag.
func HostName(id [hostDigits / 2]byte) string { return hostPrefix + hex.EncodeToString(id[:]) }

// OwnHost tells whether the name is one of HostName's.
func OwnHost(name string) bool {
	digits, ok := strings.CutPrefix(name, hostPrefix)
	return ok && len(digits) == hostDigits && strings.Trim(digits, "0123456789abcdef") == ""
}

func (a AFPacket) create(indexes) ([]call, error) {
	m := &af_packet.AfPacketCreateV3{
		Mode: af_packet.AF_PACKET_API_MODE_ETHERNET, HwAddr: ethernet_types.MacAddress(a.MAC), HostIfName: a.Host,
		RxFrameSize: rxFrame, RxFramesPerBlock: rxFrames, TxFrameSize: txFrame, TxFramesPerBlock: txFrames,
		Flags: af_packet.AF_PACKET_API_FLAG_QDISC_BYPASS, NumRxQueues: uint16(a.Queues), NumTxQueues: uint16(a.Queues),
	}
	if a.Offload {
		m.Flags |= af_packet.AF_PACKET_API_FLAG_CKSUM_GSO
		m.RxFramesPerBlock, m.TxFrameSize, m.TxFramesPerBlock = rxFramesOffload, txFrameOffload, txFramesOffload
	}
	m.TxFramesPerBlock /= uint32(max(1, a.Queues)) // each queue has a block of its own
	return []call{{req: m, also: []api.VPPApiError{api.IF_ALREADY_EXISTS}}}, nil
}

func (a AFPacket) remove(indexes) ([]call, error) {
	return []call{{req: &af_packet.AfPacketDelete{HostIfName: a.Host}, also: notAttached}}, nil
}

// notAttached are the answers to the removal of an af_packet interface that VPP does not know.
var notAttached = []api.VPPApiError{api.SYSCALL_ERROR_1, api.INVALID_INTERFACE, api.NO_SUCH_ENTRY}

// Tap is a kernel interface made by VPP itself (tap_create_v3); it needs /dev/vhost-net. It appears in VPP's own namespace.
type Tap struct {
	Name string
	// Host is the kernel interface's first name, at most 15 bytes.
	Host string
	// MAC of VPP's interface, HostMAC of the kernel's.
	MAC, HostMAC HardwareAddr
	// L3 makes it a TUN interface that carries bare IP packets.
	L3 bool
	// MTU of the kernel's interface in bytes.
	MTU uint32
	// Offload passes checksum and segmentation work through (GSO and CSUM).
	Offload bool
	// Queues bounds the number of queues in each direction, see KernelQueues.
	Queues uint8
}

// Key is {interface, Name}.
func (t Tap) Key() Key { return Interface(t.Name) }

// Uses nothing.
func (t Tap) Uses() []Key { return nil }

func (t Tap) String() string {
	s := fmt.Sprintf("tap %s mac %s mtu %d", t.Host, t.HostMAC, t.MTU)
	if t.L3 {
		s = fmt.Sprintf("tun %s mtu %d", t.Host, t.MTU)
	}
	return s + offloadText(t.Offload) + queuesText(t.Queues)
}

func offloadText(on bool) string {
	if on {
		return " offload"
	}
	return ""
}

// queuesText says nothing of a number that follows from VPP's workers.
func queuesText(n uint8) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" queues %d", n)
}

func (t Tap) adopts(found Object) bool {
	f, ok := found.(Tap)
	return ok && f.L3 == t.L3 && f.Offload == t.Offload
}

func (t Tap) stray() string { return t.Host }

func (t Tap) create(indexes) ([]call, error) {
	m := &tapv2.TapCreateV3{
		ID: ^uint32(0), MacAddress: ethernet_types.MacAddress(t.MAC), NumRxQueues: uint16(t.Queues), NumTxQueues: uint16(t.Queues), TxRingSz: tapRing, RxRingSz: tapRing,
		HostMtuSet: true, HostMtuSize: t.MTU, HostIfNameSet: true, HostIfName: t.Host, Tag: tagPrefix + t.Name,
	}
	if t.L3 {
		m.TapFlags |= tapv2.TAP_API_FLAG_TUN
	} else {
		m.HostMacAddrSet, m.HostMacAddr = true, ethernet_types.MacAddress(t.HostMAC)
	}
	if t.Offload {
		m.TapFlags |= tapv2.TAP_API_FLAG_GSO | tapv2.TAP_API_FLAG_CSUM_OFFLOAD
	}
	return []call{{req: m}}, nil
}

func (t Tap) remove(at indexes) ([]call, error) {
	i, err := at(t.Key())
	if err != nil {
		return nil, err
	}
	return []call{{req: &tapv2.TapDeleteV2{SwIfIndex: i}, also: gone}}, nil
}

// gone are the answers to a removal of what is not there.
var gone = []api.VPPApiError{api.INVALID_SW_IF_INDEX, api.NO_SUCH_ENTRY}

// foreign stands for a tagged interface of a sort this version does not make; it is removed by hand only.
type foreign struct {
	name, device string
}

func (f foreign) Key() Key       { return Interface(f.name) }
func (f foreign) Uses() []Key    { return nil }
func (f foreign) String() string { return "interface of type " + f.device }
func (f foreign) create(indexes) ([]call, error) {
	return nil, fault.New(fault.Internal, "cannot make an interface of type %s", f.device)
}
func (f foreign) remove(indexes) ([]call, error) {
	return nil, fault.New(fault.Invalid, "%s carries our tag but is of type %s, which highwire does not make; remove it by vppctl", f.name, f.device)
}
