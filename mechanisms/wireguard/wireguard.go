// Package wireguard carries IP packets to another node encrypted, one WireGuard interface with a key pair and a UDP port of
// its own for each end, as NSM does.
//
// Private keys are kept nowhere. They are derived from one secret of the node and the name of the end (RFC 5869), so they
// are the same after a restart, and neither the journal nor anything that prints an end can give one away.
package wireguard

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"math/rand/v2"
	"net/netip"
	"strconv"

	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Ports that interfaces get lie above those that systems give to sockets by themselves, and all that have these upper bits
// are ours.
const (
	FirstPort = 61440
	PortMask  = 0xf000
	// TrunkPorts, the lowest, are for tunnels that many vWires share.
	TrunkPorts = 1024
)

// ownPort tells whether a port can be that of an end.
func ownPort(p uint16) bool { return p >= FirstPort+TrunkPorts }

// usualPort is that of a far side which names none.
const usualPort = 51820

// overhead: outer IP, UDP 8, WireGuard 32 (header 16, tag 16).
var overhead = tunnel.Overhead{IP4: 60, IP6: 80}

// Mechanism is WIREGUARD.
type Mechanism struct {
	underlay tunnel.Underlay
	secret   Secret
	ports    tunnel.Claims[uint16]
	peers    tunnel.Claims[vppapi.PublicKey]
}

// New makes the mechanism of a node with the secret.
func New(u tunnel.Underlay, secret Secret) *Mechanism {
	return &Mechanism{
		underlay: u, secret: secret, ports: tunnel.Claims[uint16]{What: "UDP port"}, peers: tunnel.Claims[vppapi.PublicKey]{What: "public key"},
	}
}

// Type is WIREGUARD.
func (m *Mechanism) Type() string { return mechanisms.WireGuard }

// Class is REMOTE.
func (m *Mechanism) Class() mechanisms.Class { return mechanisms.Remote }

// Payloads are IP packets.
func (m *Mechanism) Payloads() []mechanisms.Payload { return []mechanisms.Payload{mechanisms.IP} }

// Propose says where our side is and what its public key is.
func (m *Mechanism) Propose(e mechanisms.End, far netip.Addr) (map[string]string, error) {
	local, err := tunnel.Towards(m.underlay, e.Params[mechanisms.ParamSrcIP], far)
	if err != nil {
		return nil, err
	}
	return m.side(e, local, nil)
}

// Complete says the same of the side that answers.
func (m *Mechanism) Complete(e mechanisms.End) (map[string]string, error) {
	local, _, err := tunnel.Find(m.underlay, e)
	if err != nil {
		return nil, err
	}
	if _, err := m.farSide(e); err != nil {
		return nil, err
	}
	return m.side(e, local, e.Params)
}

// farSide reads the far side's key and port, and claims the key: VPP takes each once.
func (m *Mechanism) farSide(e mechanisms.End) (uint16, error) {
	_, theirs := tunnel.Roles(e.Side)
	port, err := tunnel.Port(e.Params, theirs.Port, usualPort)
	if err != nil {
		return 0, err
	}
	key, err := PublicKey(e.Params, theirs.Key)
	if err != nil {
		return 0, err
	}
	if key == PublicOf(m.secret.Key(e.Name())) {
		return 0, fault.New(fault.Invalid, "parameters[%s] is our own key", theirs.Key)
	}
	if !m.peers.Take(e.Name(), key) {
		return 0, fault.New(fault.Conflict, "parameters[%s] %s is in use by another tunnel of this node", theirs.Key, key)
	}
	return port, nil
}

// side are our own parameters; said are those of the far side.
func (m *Mechanism) side(e mechanisms.End, local tunnel.Local, said map[string]string) (map[string]string, error) {
	ours, _ := tunnel.Roles(e.Side)
	mtu, err := overhead.MTU(local, said)
	if err != nil {
		return nil, err
	}
	before, _ := strconv.ParseUint(e.Params[ours.Port], 10, 16)
	port, err := m.ports.Choose(e.Name(), uint16(before),
		ownPort,
		func() uint16 { return FirstPort + TrunkPorts + uint16(rand.UintN(1<<16-FirstPort-TrunkPorts)) },
	)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		ours.IP: local.Addr.String(), ours.Port: strconv.Itoa(int(port)), ours.Key: PublicOf(m.secret.Key(e.Name())).String(),
		mechanisms.ParamMTU: strconv.Itoa(int(mtu)),
	}, nil
}

// PublicKey reads base64 of 32 bytes. Anything else is fault.Invalid.
func PublicKey(params map[string]string, key string) (vppapi.PublicKey, error) {
	text := params[key]
	if text == "" {
		return vppapi.PublicKey{}, fault.New(fault.Invalid, "parameters[%s] is missing: a public key", key)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(data) != len(vppapi.PublicKey{}) {
		return vppapi.PublicKey{}, fault.New(fault.Invalid, "parameters[%s] %.60q: want base64 of 32 bytes", key, text)
	}
	return vppapi.PublicKey(data), nil
}

// parsed is a validated end.
type parsed struct {
	iface vppapi.WireGuard
	peer  vppapi.WireGuardPeer
}

func (m *Mechanism) parse(e mechanisms.End) (parsed, error) {
	private := m.secret.Key(e.Name())
	p := parsed{
		iface: vppapi.WireGuard{Name: e.Name(), Private: private, Public: PublicOf(private)},
		peer:  vppapi.WireGuardPeer{Name: e.Name()},
	}
	local, remote, err := tunnel.Addresses(e)
	if err != nil {
		return p, err
	}
	ours, theirs := tunnel.Roles(e.Side)
	if p.iface.Port, err = tunnel.Port(e.Params, ours.Port, 0); err != nil {
		return p, err
	}
	if !ownPort(p.iface.Port) {
		return p, fault.New(fault.Invalid, "parameters[%s] %d: our ports are %d to 65535", ours.Port, p.iface.Port, FirstPort+TrunkPorts)
	}
	port, err := tunnel.Port(e.Params, theirs.Port, usualPort)
	if err != nil {
		return p, err
	}
	said, err := PublicKey(e.Params, ours.Key)
	if err != nil {
		return p, err
	}
	if said != p.iface.Public {
		return p, fault.New(fault.Invalid, "parameters[%s] %s is not our key; the secret of this node has changed, or the far side has changed it", ours.Key, said)
	}
	p.iface.Local, p.peer.Remote = local, netip.AddrPortFrom(remote, port)
	p.peer.Public, err = PublicKey(e.Params, theirs.Key)
	return p, err
}

// Hold keeps port and peer key for the end until Drop. fault.Invalid if our address is none of ours, fault.Conflict if
// another end has the port or the key.
func (m *Mechanism) Hold(e mechanisms.End) error {
	p, err := m.parse(e)
	if err != nil {
		return err
	}
	if !m.underlay.Has(p.iface.Local) {
		ours, _ := tunnel.Roles(e.Side)
		return fault.New(fault.Invalid, "parameters[%s] %s is not an address of this node for tunnels", ours.IP, p.iface.Local)
	}
	if err := m.ports.Hold(e.Name(), p.iface.Port); err != nil {
		return err
	}
	if err := m.peers.Hold(e.Name(), p.peer.Public); err != nil {
		m.ports.Drop(e.Name(), p.iface.Port)
		return err
	}
	return nil
}

// Drop undoes Hold.
func (m *Mechanism) Drop(e mechanisms.End) {
	if p, err := m.parse(e); err == nil {
		m.ports.Drop(e.Name(), p.iface.Port)
		m.peers.Drop(e.Name(), p.peer.Public)
	}
}

// Objects are the interface and its peer.
func (m *Mechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	p, err := m.parse(e)
	if err != nil {
		return nil, err
	}
	mtu, err := tunnel.InnerMTU(e)
	if err != nil {
		return nil, err
	}
	name := e.Name()
	objects := []vppapi.Object{p.iface, p.peer, vppapi.Tag{Name: name}, vppapi.Up{Name: name}}
	if mtu != 0 {
		objects = append(objects, vppapi.MTU{Name: name, Bytes: mtu})
	}
	return objects, nil
}

// Secret derives private keys from what a node keeps secret. It is a closure, so that nothing can print what it knows.
type Secret struct {
	derive func(name string) vppapi.PrivateKey
}

// NewSecret derives keys from data.
func NewSecret(data [32]byte) Secret {
	return Secret{func(end string) vppapi.PrivateKey {
		derived, err := hkdf.Key(sha256.New, data[:], nil, "highwire wireguard "+end, len(data))
		if err != nil {
			panic(err) // only for a length that SHA-256 cannot give
		}
		key := [32]byte(derived)
		key[0] &= 248 // RFC 7748, section 5; VPP and wireguard-go expect keys in this form
		key[31] = key[31]&127 | 64
		return vppapi.NewPrivateKey(key)
	}}
}

// Key is the private key for a name.
func (s Secret) Key(name string) vppapi.PrivateKey { return s.derive(name) }

// PublicOf is the public key that belongs to a private one.
func PublicOf(k vppapi.PrivateKey) vppapi.PublicKey {
	key, err := ecdh.X25519().NewPrivateKey(k.Bytes())
	if err != nil {
		panic(err) // only for a wrong length
	}
	return vppapi.PublicKey(key.PublicKey().Bytes())
}
