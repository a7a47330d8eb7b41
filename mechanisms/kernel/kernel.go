// Package kernel gives the peer of a vWire an ordinary network interface in its own network namespace.
//
// Where /dev/vhost-net exists VPP makes a tap (tapv2), fast and with offloads; elsewhere the interface is one end of a
// veth pair, whose other end VPP takes by af_packet. VPP's half is objects of package vppapi; the kernel's half is objects
// of this package, realized by netlink inside the namespace:
//
//	Link      the veth pair; its far end is born in the namespace under its final name, link down
//	Netns     MTU, addresses, alias, sysctls of the interface
//	Carrier   link up, routes, neighbours: last, when VPP is ready
//
// Beside these stand Policies, the rules and tables of policy routes; Port, the interface of an end that got a spare device
// of the warm pool (spare.go); and Pair, which joins two ends of one node without VPP (direct.go).
//
// With payload IP a tap carries bare packets (TUN). A veth carries frames anyway, so both sides use one MAC and the
// interface has NOARP: every address is reached at the interface's own MAC, which is VPP's too, and no ARP or ND is spoken.
package kernel

import (
	"crypto/sha256"
	"net"
	"strings"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Backing is what stands behind a kernel interface.
type Backing string

const (
	// Tap needs /dev/vhost-net where VPP runs.
	Tap Backing = "tap"
	// Veth with af_packet works everywhere.
	Veth Backing = "veth"
)

// DefaultMTU is used where a vWire names none.
const DefaultMTU = 1500

// Config of the mechanism.
type Config struct {
	// Namespaces are those the agent holds open.
	Namespaces *Namespaces
	Backing    Backing
	// Direct joins two kernel ends on this node without VPP, see Mechanism.Direct.
	Direct bool
	// Pool is how many spare devices are kept ready, see Mechanism.Spare.
	Pool int
	// Queues of an interface are one for each of VPP's workers, at most so many; 0 for four.
	Queues uint8
}

// Mechanism is KERNEL.
type Mechanism struct {
	namespaces *Namespaces
	backing    Backing
	direct     bool
	pool       int
	queues     uint8
}

// New makes the mechanism.
func New(c Config) *Mechanism { return &Mechanism{c.Namespaces, c.Backing, c.Direct, c.Pool, c.Queues} }

// Type is KERNEL.
func (m *Mechanism) Type() string { return mechanisms.Kernel }

// Class is LOCAL.
func (m *Mechanism) Class() mechanisms.Class { return mechanisms.Local }

// Payloads are both.
func (m *Mechanism) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}
}

// Hold keeps the end's namespace open, and listens there, until Drop. fault.NotFound when it is gone.
func (m *Mechanism) Hold(e mechanisms.End) error {
	p, err := parse(e)
	if err == nil {
		err = m.namespaces.Find(p.namespace)
	}
	if err == nil {
		m.namespaces.watch(p.namespace)
	}
	return err
}

// Drop undoes Hold.
func (m *Mechanism) Drop(e mechanisms.End) {
	if p, err := parse(e); err == nil {
		m.namespaces.unwatch(p.namespace)
		m.namespaces.Release(p.namespace)
	}
}

// params are the validated parameters of an end.
type params struct {
	namespace mechanisms.Inode
	name      string
	mac       vppapi.HardwareAddr
}

func parse(e mechanisms.End) (params, error) {
	var p params
	var err error
	if p.namespace, err = mechanisms.ParseInode(e.Params[mechanisms.ParamInode]); err != nil {
		return p, err
	}
	p.name = e.Params[mechanisms.ParamName]
	if err = CheckName(p.name); err != nil {
		return p, err
	}
	p.mac, err = MACOf(e)
	return p, err
}

// MACOf is the address that the peer's interface is to have: the one the end names, else one derived from its device.
func MACOf(e mechanisms.End) (vppapi.HardwareAddr, error) {
	if e.MAC == "" {
		return macOf(deviceOf(e)), nil
	}
	mac, err := net.ParseMAC(e.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return vppapi.HardwareAddr{}, fault.New(fault.Invalid, "MAC %q: want a unicast address of six bytes", e.MAC)
	}
	return vppapi.HardwareAddr(mac), nil
}

// CheckName refuses what the kernel would not take as interface name, or take for something else: 1 to 15 bytes, no '/', ':',
// '%', blank or control character; not ".", "..", "all" or "default".
func CheckName(name string) error {
	switch {
	case name == "", len(name) > 15:
		return fault.New(fault.Invalid, "interface name %.40q: want 1 to 15 bytes", name)
	case name == ".", name == "..", name == "all", name == "default":
		return fault.New(fault.Invalid, "interface name %q means something else", name)
	}
	for _, c := range []byte(name) {
		// The kernel looks at bytes: 0xa0, a blank of Latin-1, is also part of letters in UTF-8.
		if c <= ' ' || c == 0x7f || c == 0xa0 || strings.IndexByte("/:%", c) >= 0 {
			return fault.New(fault.Invalid, "interface name %q: no '/', ':', '%%', blanks or control characters", name)
		}
	}
	return nil
}

// HostName is the interface in the agent's own namespace that belongs to an end.
func HostName(end string) string {
	sum := sha256.Sum256([]byte(end))
	return vppapi.HostName([6]byte(sum[:]))
}

// deviceOf is the interface in the agent's namespace that an end has: a spare one, or its own.
func deviceOf(e mechanisms.End) string {
	if e.Device != "" {
		return e.Device
	}
	return HostName(e.Name())
}

// macOf derives a MAC from a device's name, so that it is the same in every life of the interface.
func macOf(device string) vppapi.HardwareAddr {
	var mac vppapi.HardwareAddr
	sum := sha256.Sum256([]byte(device))
	copy(mac[:], sum[:])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// aliasPrefix begins what marks both sides of our interfaces for people and for clean-up.
const aliasPrefix = "hw:"

// alias of an end's interfaces, here or in the peer's namespace.
func (n *Namespaces) alias(end string) string {
	if n.owner == "" {
		return aliasPrefix + end
	}
	return aliasPrefix + end + ownerMark + n.owner
}

// ownerMark is in no name of an end.
const ownerMark = "@"

// endOf is the end that an alias of ours names.
func (n *Namespaces) endOf(alias string) (end string, ours bool) {
	end, ours = strings.CutPrefix(alias, aliasPrefix)
	end, owner, _ := strings.Cut(end, ownerMark)
	return end, ours && owner == n.owner
}

// Objects of the end; see the package text.
func (m *Mechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	p, err := parse(e)
	if err != nil {
		return nil, err
	}
	name, host, mtu := e.Name(), deviceOf(e), mtuOf(e)
	l3 := e.Payload == mechanisms.IP
	place := place{
		name: name, namespace: p.namespace, iface: p.name, host: host, tap: m.backing == Tap, spare: e.Device != "", namespaces: m.namespaces,
	}
	objects := []vppapi.Object{
		vppapi.Tag{Name: name}, vppapi.Up{Name: name},
		newNetns(place, e, mtu, l3), newCarrier(place, e),
	}
	if l3 {
		objects = append(objects, vppapi.MTU{Name: name, Bytes: mtu})
	}
	if len(e.Policies) > 0 {
		objects = append(objects, Policies{place: place, addresses: e.Addresses, policies: e.Policies})
	}
	if m.backing == Tap {
		tap := vppapi.Tap{Name: name, Host: host, L3: l3, MTU: mtu, Offload: e.Offload, MAC: vppSide(p.mac), Queues: m.queues}
		if !l3 {
			tap.HostMAC = p.mac
		}
		return append(objects, tap), nil
	}
	vppMAC := vppSide(p.mac)
	if l3 {
		vppMAC = p.mac
		v4, v6 := e.Families()
		for _, f := range []struct{ used, v6 bool }{{v4, false}, {v6, true}} {
			if f.used {
				objects = append(objects, vppapi.Neighbor{Name: name, Addr: e.NextHop(f.v6), MAC: p.mac})
			}
		}
	}
	if place.spare {
		return append(append(objects, m.Spare(name, host)...), Port{place: place, NoARP: l3}), nil
	}
	return append(objects,
		Link{place: place, MAC: p.mac, MTU: mtu, NoARP: l3, Offload: e.Offload},
		vppapi.AFPacket{Name: name, Host: host, MAC: vppMAC, Offload: e.Offload, Queues: m.queues},
	), nil
}

func mtuOf(e mechanisms.End) uint32 {
	if e.MTU == 0 {
		return DefaultMTU
	}
	return e.MTU
}

// vppSide is the MAC of VPP's own interface, unlike the peer's but as lasting.
func vppSide(mac vppapi.HardwareAddr) vppapi.HardwareAddr {
	mac[5] ^= 1
	return mac
}
