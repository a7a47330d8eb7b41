package vppapi

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/vlib"
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
	// Routed: the frames are no more than what packets travel in. VPP hands them to its routing instead of its switching.
	Routed bool

	next uint32 // VPP's number for where frames go that are routed
}

// Key is {interface, Name}.
func (v VXLAN) Key() Key { return Interface(v.Name) }

// Uses nothing.
func (v VXLAN) Uses() []Key { return nil }

func (v VXLAN) String() string {
	s := fmt.Sprintf("vxlan %d from %s to %s", v.VNI, netip.AddrPortFrom(v.Local, v.LocalPort), netip.AddrPortFrom(v.Remote, v.RemotePort))
	if v.Routed {
		s += " routed"
	}
	return s
}

// VPP's numbers for where frames go: toSwitching is l2-input, and toNowhere is refused.
const (
	toSwitching = 1
	toNowhere   = ^uint32(0) - 1
)

func (v VXLAN) message(add bool) *vxlan.VxlanAddDelTunnelV3 {
	next := uint32(toSwitching)
	if v.Routed {
		next = cmp.Or(v.next, toNowhere)
	}
	return &vxlan.VxlanAddDelTunnelV3{
		IsAdd: add, Instance: ^uint32(0), SrcAddress: ipAddress(v.Local), DstAddress: ipAddress(v.Remote), SrcPort: v.LocalPort, DstPort: v.RemotePort,
		McastSwIfIndex: every, DecapNextIndex: next, Vni: v.VNI,
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
	return VXLAN{Local: address(v6, m.SrcAddress.Un), Remote: address(v6, m.DstAddress.Un), LocalPort: m.SrcPort, RemotePort: m.DstPort, VNI: m.Vni,
		Routed: m.DecapNextIndex > toSwitching}
}

// routing lets vxlan hand frames to routing, which by itself it cannot, if anything to be made needs that. Where VPP refuses, it
// refuses that too.
func (c *Conn) routing(ctx context.Context, objects []held) {
	for _, o := range objects {
		v, ok := o.(VXLAN)
		if !ok || !v.Routed || c.routed[v.inputNode()] != 0 {
			continue
		}
		answers, _ := c.flush(ctx, []call{{req: &vlib.AddNodeNext{NodeName: v.inputNode(), NextName: "ethernet-input"}}})
		if answers[0].err == nil {
			c.routed[v.inputNode()] = answers[0].reply.(*vlib.AddNodeNextReply).NextIndex
		}
	}
}

func (v VXLAN) inputNode() string {
	if v.Local.Is6() {
		return "vxlan6-input"
	}
	return "vxlan4-input"
}

func (v VXLAN) fit(c *Conn) held {
	v.next = c.routed[v.inputNode()]
	return v
}

func (v VXLAN) create(indexes) ([]call, error) { return []call{{req: v.message(true)}}, nil }

func (v VXLAN) remove(indexes) ([]call, error) {
	return []call{{req: v.message(false), also: []api.VPPApiError{api.NO_SUCH_ENTRY}}}, nil
}
