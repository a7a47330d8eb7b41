// Package vxlan carries Ethernet frames to another node in UDP (RFC 7348), as NSM does: the side that answers chooses the
// VNI, an even one if the source address is not above its own and an odd one otherwise, so that two nodes that ask each other
// never choose the same.
package vxlan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Port is where both sides listen (RFC 7348).
const Port = 4789

// overhead: outer IP, UDP 8, VXLAN 8, inner Ethernet 14, and 4 for a VLAN tag.
var overhead = tunnel.Overhead{IP4: 54, IP6: 74}

const maxVNI = 1<<24 - 1

// Mechanism is VXLAN.
type Mechanism struct {
	underlay tunnel.Underlay
	vnis     tunnel.Claims[network]
}

// network is what VPP tells tunnels apart by.
type network struct {
	remote netip.Addr
	vni    uint32
}

func (n network) String() string { return fmt.Sprintf("%d with %s", n.vni, n.remote) }

// New makes the mechanism.
func New(u tunnel.Underlay) *Mechanism {
	return &Mechanism{underlay: u, vnis: tunnel.Claims[network]{What: mechanisms.ParamVNI}}
}

// Type is VXLAN.
func (m *Mechanism) Type() string { return mechanisms.VXLAN }

// Class is REMOTE.
func (m *Mechanism) Class() mechanisms.Class { return mechanisms.Remote }

// Payloads are frames.
func (m *Mechanism) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet}
}

// Propose says where our side is.
func (m *Mechanism) Propose(e mechanisms.End, far netip.Addr) (map[string]string, error) {
	local, err := tunnel.Towards(m.underlay, e.Params[mechanisms.ParamSrcIP], far)
	if err != nil {
		return nil, err
	}
	mtu, err := overhead.MTU(local, nil)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		mechanisms.ParamSrcIP: local.Addr.String(), mechanisms.ParamSrcPort: strconv.Itoa(Port), mechanisms.ParamMTU: strconv.Itoa(int(mtu)),
	}, nil
}

// Complete says where our side is, and chooses the VNI.
func (m *Mechanism) Complete(e mechanisms.End) (map[string]string, error) {
	local, remote, err := tunnel.Find(m.underlay, e)
	if err != nil {
		return nil, err
	}
	if _, err := tunnel.Port(e.Params, mechanisms.ParamSrcPort, Port); err != nil {
		return nil, err
	}
	mtu, err := overhead.MTU(local, e.Params)
	if err != nil {
		return nil, err
	}
	before, err := tunnel.Number(e.Params, mechanisms.ParamVNI, 0, maxVNI)
	if err != nil {
		return nil, err
	}
	odd, err := odd(e.Params, remote, local.Addr)
	if err != nil {
		return nil, err
	}
	n, err := m.vnis.Choose(e.Name(), network{remote, before},
		func(n network) bool { return n.remote == remote && n.vni != 0 && n.vni&1 == odd },
		func() network { return network{remote, (rand.Uint32N(maxVNI/2)+1)<<1 | odd} },
	)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		mechanisms.ParamDstIP: local.Addr.String(), mechanisms.ParamDstPort: strconv.Itoa(Port), mechanisms.ParamVNI: strconv.Itoa(int(n.vni)),
		mechanisms.ParamMTU: strconv.Itoa(int(mtu)),
	}, nil
}

// odd is the lowest bit of VNIs that the side with address dst chooses for src. Addresses before translation count.
func odd(params map[string]string, src, dst netip.Addr) (uint32, error) {
	for _, a := range []struct {
		key  string
		addr *netip.Addr
	}{{mechanisms.ParamOrigSrcIP, &src}, {mechanisms.ParamOrigDstIP, &dst}} {
		if params[a.key] == "" {
			continue
		}
		var err error
		if *a.addr, err = tunnel.Addr(params, a.key); err != nil {
			return 0, err
		}
	}
	if src.Compare(dst) <= 0 {
		return 0, nil
	}
	return 1, nil
}

func parse(e mechanisms.End) (vppapi.VXLAN, error) {
	v := vppapi.VXLAN{Name: e.Name()}
	var err error
	if v.Local, v.Remote, err = tunnel.Addresses(e); err != nil {
		return v, err
	}
	ours, theirs := tunnel.Roles(e.Side)
	if v.LocalPort, err = tunnel.Port(e.Params, ours.Port, Port); err != nil {
		return v, err
	}
	if v.RemotePort, err = tunnel.Port(e.Params, theirs.Port, Port); err != nil {
		return v, err
	}
	if v.VNI, err = tunnel.Number(e.Params, mechanisms.ParamVNI, 0, maxVNI); err != nil {
		return v, err
	}
	switch {
	case v.VNI == 0:
		return v, fault.New(fault.Invalid, "parameters[%s] is missing or zero", mechanisms.ParamVNI)
	case v.LocalPort != Port:
		return v, fault.New(fault.Invalid, "parameters[%s] %d: we listen on %d", ours.Port, v.LocalPort, Port)
	}
	return v, nil
}

// Hold keeps the VNI for the end until Drop. fault.Invalid if our address is none of ours, fault.Conflict if the VNI is in
// use between the two nodes.
func (m *Mechanism) Hold(e mechanisms.End) error {
	v, err := parse(e)
	if err != nil {
		return err
	}
	if !m.underlay.Has(v.Local) {
		ours, _ := tunnel.Roles(e.Side)
		return fault.New(fault.Invalid, "parameters[%s] %s is not an address of this node for tunnels", ours.IP, v.Local)
	}
	return m.vnis.Hold(e.Name(), network{v.Remote, v.VNI})
}

// Drop undoes Hold.
func (m *Mechanism) Drop(e mechanisms.End) {
	if v, err := parse(e); err == nil {
		m.vnis.Drop(e.Name(), network{v.Remote, v.VNI})
	}
}

// Objects are the tunnel.
func (m *Mechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	v, err := parse(e)
	if err != nil {
		return nil, err
	}
	return []vppapi.Object{v, vppapi.Tag{Name: v.Name}, vppapi.Up{Name: v.Name}}, nil
}
