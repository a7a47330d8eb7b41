package vppapi

import (
	"fmt"
	"net/netip"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/vxlan"
)

// VXLAN is one end of an Ethernet tunnel over UDP (RFC 7348; vxlan_add_del_tunnel_v3).
type VXLAN struct {
	// Name of the end, "<vwire>:<side>".
	Name string
	// Local and Remote are the outer addresses, of one family.
	Local, Remote netip.Addr
	// LocalPort and RemotePort are the UDP ports that each side listens on.
	LocalPort, RemotePort uint16
	// VNI has 24 bits.
	VNI uint32
}

// Key is {interface, Name}.
func (v VXLAN) Key() Key { return Interface(v.Name) }

// Uses nothing.
func (v VXLAN) Uses() []Key { return nil }

func (v VXLAN) String() string {
	return fmt.Sprintf("vxlan %d from %s to %s", v.VNI, netip.AddrPortFrom(v.Local, v.LocalPort), netip.AddrPortFrom(v.Remote, v.RemotePort))
}

func (v VXLAN) message(add bool) *vxlan.VxlanAddDelTunnelV3 {
	return &vxlan.VxlanAddDelTunnelV3{
		IsAdd: add, Instance: ^uint32(0), SrcAddress: ipAddress(v.Local), DstAddress: ipAddress(v.Remote), SrcPort: v.LocalPort, DstPort: v.RemotePort,
		McastSwIfIndex: every, DecapNextIndex: ^uint32(0), Vni: v.VNI,
	}
}

func (v VXLAN) stray() string { return v.String() }

func (v VXLAN) named(end string) Object {
	v.Name = end
	return v
}

func (v VXLAN) adopts(found Object) bool {
	f, ok := found.(VXLAN)
	return ok && f.named(v.Name) == v
}

func vxlanOf(m *vxlan.VxlanTunnelV2Details) VXLAN {
	v6 := m.SrcAddress.Af == ip_types.ADDRESS_IP6
	return VXLAN{Local: address(v6, m.SrcAddress.Un), Remote: address(v6, m.DstAddress.Un), LocalPort: m.SrcPort, RemotePort: m.DstPort, VNI: m.Vni}
}

func (v VXLAN) create(indexes) ([]call, error) { return []call{{req: v.message(true)}}, nil }

func (v VXLAN) remove(indexes) ([]call, error) {
	return []call{{req: v.message(false), also: []api.VPPApiError{api.NO_SUCH_ENTRY}}}, nil
}
