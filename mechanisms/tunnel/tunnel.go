// Package tunnel is what mechanisms between nodes have in common: the parameters of both sides, the addresses that tunnels
// begin at, and numbers that no two tunnels may share.
//
// Of the two sides, the one that asks is "src" in the parameters and the one that answers "dst". The end towards the endpoint
// is where we ask, the end towards the client where we answer, so an end's Side says which half of the parameters is ours.
package tunnel

import (
	"net/netip"
	"strconv"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Local is where our tunnels begin.
type Local struct {
	Addr netip.Addr
	// MTU of the underlay in bytes (L3).
	MTU uint32
}

// Underlay is the network that tunnels cross. It may change at any time; implementations are safe for concurrent use.
type Underlay interface {
	// Local is our address towards far, of its family; of the zero Addr our first. fault.Unavailable if there is none.
	Local(far netip.Addr) (Local, error)
	// Has tells whether the address is one of ours that tunnels may begin at.
	Has(addr netip.Addr) bool
}

// Fixed is an Underlay that does not change.
type Fixed []Local

// Local finds the first address of far's family.
func (f Fixed) Local(far netip.Addr) (Local, error) {
	for _, l := range f {
		if !far.IsValid() || l.Addr.Is4() == far.Is4() {
			return l, nil
		}
	}
	if !far.IsValid() {
		return Local{}, fault.New(fault.Unavailable, "this node has no address for tunnels; name one with --tunnel-ip")
	}
	return Local{}, fault.New(fault.Unavailable, "this node has no address for tunnels to %s; name one of that family with --tunnel-ip", far)
}

// Has tells whether the address is in f.
func (f Fixed) Has(addr netip.Addr) bool {
	for _, l := range f {
		if l.Addr == addr {
			return true
		}
	}
	return false
}

// Role names the parameters of one side.
type Role struct {
	IP, OrigIP, Port, Key string
}

var (
	src = Role{mechanisms.ParamSrcIP, mechanisms.ParamOrigSrcIP, mechanisms.ParamSrcPort, mechanisms.ParamSrcKey}
	dst = Role{mechanisms.ParamDstIP, mechanisms.ParamOrigDstIP, mechanisms.ParamDstPort, mechanisms.ParamDstKey}
)

// Roles are our parameters at this end, and those of the far side.
func Roles(side mechanisms.Side) (ours, theirs Role) {
	if side == mechanisms.Endpoint {
		return src, dst
	}
	return dst, src
}

// Addr reads an outer address. Missing, malformed, or none that a tunnel can have is fault.Invalid.
func Addr(params map[string]string, key string) (netip.Addr, error) {
	text := params[key]
	if text == "" {
		return netip.Addr{}, fault.New(fault.Invalid, "parameters[%s] is missing: an address of the tunnel", key)
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, fault.New(fault.Invalid, "parameters[%s] %.60q: want the unicast IP address of a tunnel", key, text)
	}
	return a, nil
}

// Number reads a decimal number up to max; absent it is missing. Anything else is fault.Invalid.
func Number(params map[string]string, key string, missing, max uint32) (uint32, error) {
	text := params[key]
	if text == "" {
		return missing, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > uint64(max) {
		return 0, fault.New(fault.Invalid, "parameters[%s] %.40q: want a decimal number up to %d", key, text, max)
	}
	return uint32(n), nil
}

// Port reads a UDP port; absent it is missing.
func Port(params map[string]string, key string, missing uint16) (uint16, error) {
	n, err := Number(params, key, uint32(missing), 65535)
	if err == nil && n == 0 {
		err = fault.New(fault.Invalid, "parameters[%s] is zero: want a UDP port", key)
	}
	return uint16(n), err
}

// Addresses are both outer addresses of an end: of one family and not the same.
func Addresses(e mechanisms.End) (local, remote netip.Addr, err error) {
	ours, theirs := Roles(e.Side)
	if local, err = Addr(e.Params, ours.IP); err != nil {
		return local, remote, err
	}
	if remote, err = Addr(e.Params, theirs.IP); err != nil {
		return local, remote, err
	}
	return local, remote, apart(local, remote, theirs.IP)
}

func apart(local, remote netip.Addr, key string) error {
	switch {
	case local == remote:
		return fault.New(fault.Invalid, "parameters[%s] %s is our own address", key, remote)
	case local.Is4() != remote.Is4():
		return fault.New(fault.Invalid, "parameters[%s] %s is of another family than our %s", key, remote, local)
	}
	return nil
}

// Find chooses our address for a client's tunnel: the one it was told before while that is ours, else the one towards it.
func Find(u Underlay, client mechanisms.End) (local Local, remote netip.Addr, err error) {
	ours, theirs := Roles(client.Side)
	if remote, err = Addr(client.Params, theirs.IP); err != nil {
		return local, remote, err
	}
	if local, err = Towards(u, client.Params[ours.IP], remote); err != nil {
		return local, remote, err
	}
	return local, remote, apart(local.Addr, remote, theirs.IP)
}

// Towards is our address towards far, which may be unknown: the one said before, as text, while it is ours.
func Towards(u Underlay, before string, far netip.Addr) (Local, error) {
	if a, err := netip.ParseAddr(before); err == nil && u.Has(a) && (!far.IsValid() || a.Is4() == far.Is4()) {
		l, err := u.Local(a)
		l.Addr = a
		return l, err
	}
	return u.Local(far)
}

// Overhead is what a tunnel adds to an IP packet in bytes, by the family of the outer addresses.
type Overhead struct{ IP4, IP6 uint32 }

// Of is the overhead with that outer address.
func (o Overhead) Of(outer netip.Addr) uint32 {
	if outer.Is6() {
		return o.IP6
	}
	return o.IP4
}

// minMTU is the smallest that a path for both IP families can have (RFC 8200, section 5).
const minMTU = 1280

// MTU inside a tunnel from l as both sides know it: what the underlay leaves, or less if the far side said so.
func (o Overhead) MTU(l Local, params map[string]string) (uint32, error) {
	said, err := Number(params, mechanisms.ParamMTU, 0, 65535)
	if err != nil {
		return 0, err
	}
	if said != 0 && said < minMTU {
		return 0, fault.New(fault.Invalid, "parameters[%s] %d: want at least %d", mechanisms.ParamMTU, said, minMTU)
	}
	if l.MTU < minMTU+o.Of(l.Addr) {
		return 0, fault.New(fault.Unavailable, "the underlay of %s has an MTU of %d: tunnels need %d", l.Addr, l.MTU, minMTU+o.Of(l.Addr))
	}
	mtu := l.MTU - o.Of(l.Addr)
	if said != 0 {
		mtu = min(mtu, said)
	}
	return mtu, nil
}

// InnerMTU is that of an end's interface: of the vWire, of the tunnel, or the lesser where both are known; 0 if neither is.
func InnerMTU(e mechanisms.End) (uint32, error) {
	said, err := Number(e.Params, mechanisms.ParamMTU, 0, 65535)
	if e.MTU == 0 || said == 0 {
		return max(e.MTU, said), err
	}
	return min(e.MTU, said), err
}
