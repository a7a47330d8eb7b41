package vppapi

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"unique"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/wireguard"

	"highwire/vppapi/fault"
)

// PublicKey of a WireGuard interface (Curve25519, RFC 7748).
type PublicKey [32]byte

// String is base64, as on the NSM wire and in wg(8).
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// PrivateKey of a WireGuard interface, comparable. However it is printed or marshalled, alone or inside of something, it does
// not show itself: only a handle of it is in memory that printing can reach.
type PrivateKey struct{ handle unique.Handle[[32]byte] }

// NewPrivateKey keeps the 32 bytes of a key.
func NewPrivateKey(key [32]byte) PrivateKey { return PrivateKey{unique.Make(key)} }

// Bytes are the key itself. The zero PrivateKey has none.
func (k PrivateKey) Bytes() []byte {
	if k == (PrivateKey{}) {
		return nil
	}
	key := k.handle.Value()
	return key[:]
}

const redacted = "(private key)"

// Format prints "(private key)" for every verb.
func (PrivateKey) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// MarshalText gives "(private key)".
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// WireGuard is an interface for IP packets with a UDP port of its own (wireguard_interface_create). Interfaces must not share
// a port: when one of them goes, VPP takes another one off the port.
type WireGuard struct {
	// Name of the end, "<vwire>:<side>".
	Name string
	// Local is the outer address, Port the UDP port.
	Local netip.Addr
	Port  uint16
	// Public belongs to Private.
	Public  PublicKey
	Private PrivateKey
}

// Key is {interface, Name}.
func (w WireGuard) Key() Key { return Interface(w.Name) }

// Uses nothing.
func (w WireGuard) Uses() []Key { return nil }

func (w WireGuard) String() string {
	return fmt.Sprintf("wireguard %s key %s", netip.AddrPortFrom(w.Local, w.Port), w.Public)
}

func (w WireGuard) stray() string { return w.String() }

func (w WireGuard) named(end string) Object {
	w.Name = end
	return w
}

// adopts: a private key is never asked for, but the public one belongs to it.
func (w WireGuard) adopts(found Object) bool {
	f, ok := found.(WireGuard)
	return ok && f.Local == w.Local && f.Port == w.Port && f.Public == w.Public
}

func wireguardOf(m *wireguard.WireguardInterfaceDetails) WireGuard {
	i := m.Interface
	return WireGuard{Local: address(i.SrcIP.Af == ip_types.ADDRESS_IP6, i.SrcIP.Un), Port: i.Port, Public: PublicKey(i.PublicKey)}
}

func (w WireGuard) create(indexes) ([]call, error) {
	return []call{{req: &wireguard.WireguardInterfaceCreate{Interface: wireguard.WireguardInterface{
		UserInstance: ^uint32(0), PrivateKey: w.Private.Bytes(), PublicKey: w.Public[:], Port: w.Port, SrcIP: ipAddress(w.Local),
	}}}}, nil
}

func (w WireGuard) remove(at indexes) ([]call, error) {
	i, err := at(w.Key())
	if err != nil {
		return nil, err
	}
	return []call{{req: &wireguard.WireguardInterfaceDelete{SwIfIndex: i}, also: gone}}, nil
}

// WireGuardPeer is the far side of a WireGuard interface; packets to and from any address may pass (wireguard_peer_add). It
// goes with its interface. VPP takes a public key once, whichever the interface.
type WireGuardPeer struct {
	Name   string
	Public PublicKey
	// Remote is where the far side listens at first. VPP follows when it moves.
	Remote netip.AddrPort
}

// keepalive is how long a tunnel is silent at most, in seconds.
const keepalive = 10

// Key is {peer, Name}.
func (p WireGuardPeer) Key() Key { return Key{KindPeer, p.Name} }

// Uses the interface.
func (p WireGuardPeer) Uses() []Key { return []Key{Interface(p.Name)} }

func (p WireGuardPeer) String() string {
	return fmt.Sprintf("wireguard peer %s at %s", p.Public, p.Remote)
}

// adopts a peer that has moved.
func (p WireGuardPeer) adopts(found Object) bool {
	f, ok := found.(WireGuardPeer)
	return ok && f.Public == p.Public
}

func wireguardPeerOf(end string, m *wireguard.WireguardPeersDetails) WireGuardPeer {
	e := m.Peer.Endpoint
	return WireGuardPeer{Name: end, Public: PublicKey(m.Peer.PublicKey), Remote: netip.AddrPortFrom(address(e.Af == ip_types.ADDRESS_IP6, e.Un), m.Peer.Port)}
}

func (p WireGuardPeer) create(at indexes) ([]call, error) {
	i, err := at(Interface(p.Name))
	if err != nil {
		return nil, err
	}
	var calls []call
	if _, err := at(p.Key()); err == nil { // another peer was there
		if calls, err = p.remove(at); err != nil {
			return nil, err
		}
	}
	return append(calls, call{
		req: &wireguard.WireguardPeerAdd{Peer: wireguard.WireguardPeer{
			PublicKey: p.Public[:], Port: p.Remote.Port(), PersistentKeepalive: keepalive, Endpoint: ipAddress(p.Remote.Addr()), SwIfIndex: i,
			AllowedIps: []ip_types.Prefix{{Address: ipAddress(netip.IPv4Unspecified())}, {Address: ipAddress(netip.IPv6Unspecified())}},
		}},
		means: map[api.VPPApiError]error{api.ENTRY_ALREADY_EXISTS: fault.New(fault.Conflict, "public key %s is in use by another tunnel of this node", p.Public)},
	}), nil
}

func (p WireGuardPeer) remove(at indexes) ([]call, error) {
	i, err := at(p.Key())
	if err != nil {
		return nil, err
	}
	return []call{{req: &wireguard.WireguardPeerRemove{PeerIndex: uint32(i)}, also: gone}}, nil
}
