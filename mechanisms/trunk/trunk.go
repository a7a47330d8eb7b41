// Package trunk carries any number of vWires to another highwire node through one WireGuard tunnel: VXLAN inside of
// WireGuard. So Ethernet is encrypted too, and another vWire costs neither a handshake nor a key nor a port. Of a vWire that carries
// IP each packet travels in a frame that everybody takes.
//
// It is offered before VXLAN and WireGuard; a node of another make does not know it and takes those. Tunnel, keys and port belong to a pair
// of addresses: ours, and the one by which we know the far node. When either changes there is another trunk, and the old one
// goes with its last vWire. Sessions get new keys every two minutes, as WireGuard does it, without a packet lost.
//
// Inside, each side has an IPv6 address that follows from its public key, and vxlan runs between the two.
package trunk

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/mechanisms/vxlan"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// overhead: that of WireGuard, and of VXLAN with IPv6 inside of it.
var overhead = tunnel.Overhead{IP4: 60 + 74, IP6: 80 + 74}

const maxVNI = 1<<24 - 1

// paramFar is by which address src knows dst: with src_ip it says which of its keys src uses.
const paramFar = "far"

// Mechanism is HIGHWIRE_TRUNK.
type Mechanism struct {
	underlay tunnel.Underlay
	secret   wireguard.Secret
	ports    tunnel.Claims[uint16]
	vnis     tunnel.Claims[network]
}

// network is one vWire in a trunk.
type network struct {
	far vppapi.PublicKey
	vni uint32
}

func (n network) String() string { return fmt.Sprintf("%d with %s", n.vni, n.far) }

// New makes the mechanism of a node with the secret.
func New(u tunnel.Underlay, secret wireguard.Secret) *Mechanism {
	return &Mechanism{
		underlay: u, secret: secret, ports: tunnel.Claims[uint16]{What: "UDP port"}, vnis: tunnel.Claims[network]{What: mechanisms.ParamVNI},
	}
}

// Type is HIGHWIRE_TRUNK.
func (m *Mechanism) Type() string { return mechanisms.Trunk }

// Class is REMOTE.
func (m *Mechanism) Class() mechanisms.Class { return mechanisms.Remote }

// Payloads are frames and packets.
func (m *Mechanism) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}
}

// pair names a trunk on this node, and with the secret its key.
func pair(local, far netip.Addr) string { return fmt.Sprintf("trunk from %s to %s", local, far) }

// Propose says where our side is and what its public key is.
func (m *Mechanism) Propose(e mechanisms.End, far netip.Addr) (map[string]string, error) {
	local, err := tunnel.Towards(m.underlay, e.Params[mechanisms.ParamSrcIP], far)
	if err != nil {
		return nil, err
	}
	if !far.IsValid() {
		return nil, fault.New(fault.Unavailable, "the address of the other node is not known, and a trunk belongs to one")
	}
	own, err := m.side(e, local, far, nil)
	if err != nil {
		return nil, err
	}
	own[paramFar] = far.String()
	return own, nil
}

// Complete says the same of the side that answers, and chooses the VNI.
func (m *Mechanism) Complete(e mechanisms.End) (map[string]string, error) {
	local, remote, err := tunnel.Find(m.underlay, e)
	if err != nil {
		return nil, err
	}
	if _, err := tunnel.Port(e.Params, mechanisms.ParamSrcPort, 0); err != nil {
		return nil, err
	}
	theirs, err := wireguard.PublicKey(e.Params, mechanisms.ParamSrcKey)
	if err != nil {
		return nil, err
	}
	before, err := tunnel.Number(e.Params, mechanisms.ParamVNI, 0, maxVNI)
	if err != nil {
		return nil, err
	}
	answer, err := m.side(e, local, remote, e.Params)
	if err != nil {
		return nil, err
	}
	odd := parity(theirs, wireguard.PublicOf(m.secret.Key(pair(local.Addr, remote))))
	n, err := m.vnis.Choose(e.Name(), network{theirs, before},
		func(n network) bool { return n.far == theirs && n.vni != 0 && n.vni&1 == odd },
		func() network { return network{theirs, (rand.Uint32N(maxVNI/2)+1)<<1 | odd} },
	)
	if err != nil {
		return nil, err
	}
	answer[mechanisms.ParamVNI] = strconv.Itoa(int(n.vni))
	return answer, nil
}

// parity is the lowest bit of VNIs that dst chooses for src, so that both choose different ones.
func parity(src, dst vppapi.PublicKey) uint32 {
	if string(src[:]) <= string(dst[:]) {
		return 0
	}
	return 1
}

// side are our own parameters.
func (m *Mechanism) side(e mechanisms.End, local tunnel.Local, far netip.Addr, said map[string]string) (map[string]string, error) {
	ours, _ := tunnel.Roles(e.Side)
	mtu, err := overhead.MTU(local, said)
	if err != nil {
		return nil, err
	}
	name := pair(local.Addr, far)
	before, _ := strconv.ParseUint(e.Params[ours.Port], 10, 16)
	sum := sha256.Sum256([]byte(name))
	next := binary.BigEndian.Uint16(sum[:])
	port, err := m.ports.Choose(name, uint16(before), ownPort, func() uint16 {
		next++ // the same one after everything was lost: the far side may not have noticed
		return wireguard.FirstPort + next%wireguard.TrunkPorts
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{
		ours.IP: local.Addr.String(), ours.Port: strconv.Itoa(int(port)), ours.Key: wireguard.PublicOf(m.secret.Key(name)).String(),
		mechanisms.ParamMTU: strconv.Itoa(int(mtu)),
	}, nil
}

func ownPort(p uint16) bool {
	return p >= wireguard.FirstPort && p < wireguard.FirstPort+wireguard.TrunkPorts
}

// parsed is a validated end.
type parsed struct {
	pair  string
	iface vppapi.WireGuard
	peer  vppapi.WireGuardPeer
	frame vppapi.VXLAN
}

func (m *Mechanism) parse(e mechanisms.End) (parsed, error) {
	var p parsed
	local, remote, err := tunnel.Addresses(e)
	if err != nil {
		return p, err
	}
	far := remote
	if e.Side == mechanisms.Endpoint {
		if far, err = tunnel.Addr(e.Params, paramFar); err != nil {
			return p, err
		}
	}
	ours, theirs := tunnel.Roles(e.Side)
	p.pair = pair(local, far)
	p.iface.Private = m.secret.Key(p.pair)
	p.iface.Public = wireguard.PublicOf(p.iface.Private)
	p.iface.Local = local
	if p.iface.Port, err = tunnel.Port(e.Params, ours.Port, 0); err != nil {
		return p, err
	}
	if !ownPort(p.iface.Port) {
		return p, fault.New(fault.Invalid, "parameters[%s] %d is not a port of ours for trunks", ours.Port, p.iface.Port)
	}
	port, err := tunnel.Port(e.Params, theirs.Port, 0)
	if err != nil {
		return p, err
	}
	p.peer.Remote = netip.AddrPortFrom(remote, port)
	if said, err := wireguard.PublicKey(e.Params, ours.Key); err != nil {
		return p, err
	} else if said != p.iface.Public {
		return p, fault.New(fault.Invalid, "parameters[%s] %s is not our key", ours.Key, said)
	}
	if p.peer.Public, err = wireguard.PublicKey(e.Params, theirs.Key); err != nil {
		return p, err
	}
	if p.peer.Public == p.iface.Public {
		return p, fault.New(fault.Invalid, "parameters[%s] is our own key", theirs.Key)
	}
	vni, err := tunnel.Number(e.Params, mechanisms.ParamVNI, 0, maxVNI)
	if err != nil {
		return p, err
	}
	if vni == 0 {
		return p, fault.New(fault.Invalid, "parameters[%s] is missing or zero", mechanisms.ParamVNI)
	}
	sum := sha256.Sum256(append(p.iface.Public[:], p.peer.Public[:]...))
	p.iface.Name = "trunk-" + hex.EncodeToString(sum[:6]) + vppapi.NodeSide
	p.peer.Name = p.iface.Name
	p.frame = vppapi.VXLAN{
		Name: e.Name(), Local: inner(p.iface.Public), Remote: inner(p.peer.Public), LocalPort: vxlan.Port, RemotePort: vxlan.Port, VNI: vni,
		Routed: e.Payload == mechanisms.IP,
	}
	return p, nil
}

// inner is the address inside of the trunk that belongs to a key: a local one (RFC 4193) that nobody else comes to have.
func inner(k vppapi.PublicKey) netip.Addr {
	sum := sha256.Sum256(k[:])
	sum[0] = 0xfd
	return netip.AddrFrom16([16]byte(sum[:16]))
}

// Hold keeps port and VNI until Drop. fault.Invalid if our address is none of ours, fault.Conflict if another trunk has the
// port or another vWire the VNI.
func (m *Mechanism) Hold(e mechanisms.End) error {
	p, err := m.parse(e)
	if err != nil {
		return err
	}
	if !m.underlay.Has(p.iface.Local) {
		ours, _ := tunnel.Roles(e.Side)
		return fault.New(fault.Invalid, "parameters[%s] %s is not an address of this node for tunnels", ours.IP, p.iface.Local)
	}
	if err := m.ports.Hold(p.pair, p.iface.Port); err != nil {
		return err
	}
	if err := m.vnis.Hold(e.Name(), network{p.peer.Public, p.frame.VNI}); err != nil {
		m.ports.Drop(p.pair, p.iface.Port)
		return err
	}
	return nil
}

// Drop undoes Hold.
func (m *Mechanism) Drop(e mechanisms.End) {
	if p, err := m.parse(e); err == nil {
		m.ports.Drop(p.pair, p.iface.Port)
		m.vnis.Drop(e.Name(), network{p.peer.Public, p.frame.VNI})
	}
}

// Objects are the trunk, which all vWires between the two nodes want alike, and the vxlan tunnel in it.
func (m *Mechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	p, err := m.parse(e)
	if err != nil {
		return nil, err
	}
	trunk, name := p.iface.Name, e.Name()
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	objects := []vppapi.Object{
		p.iface, p.peer, vppapi.Tag{Name: trunk}, vppapi.Up{Name: trunk},
		vppapi.Address{Name: trunk, Prefix: host(p.frame.Local)}, vppapi.Route{Name: trunk, Prefix: host(p.frame.Remote), Via: p.frame.Remote},
		p.frame, vppapi.Tag{Name: name}, vppapi.Up{Name: name},
	}
	if e.Payload == mechanisms.IP {
		mtu, err := tunnel.InnerMTU(e)
		if err != nil {
			return nil, err
		}
		if mtu != 0 {
			objects = append(objects, vppapi.MTU{Name: name, Bytes: mtu})
		}
		v4, v6 := e.Families()
		for _, f := range []struct{ used, v6 bool }{{v4, false}, {v6, true}} {
			if f.used {
				objects = append(objects, vppapi.Neighbor{Name: name, Addr: e.NextHop(f.v6), MAC: everybody})
			}
		}
	}
	return objects, nil
}

// everybody takes frames of this destination, whatever the address that VPP has given to its end.
var everybody = vppapi.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
