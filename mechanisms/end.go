package mechanisms

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"highwire/vppapi/fault"
)

// Payload is what a vWire carries, spelled as on the NSM wire.
type Payload string

const (
	// Ethernet frames pass unchanged: an l2 cross-connect.
	Ethernet Payload = "ETHERNET"
	// IP packets pass, link layers end at each side: an l3 cross-connect.
	IP Payload = "IP"
)

// Side says which end of a vWire something belongs to.
type Side string

const (
	// Client is the end of the one who asked (NSM's src).
	Client Side = "client"
	// Endpoint is the end of the one who answered, or of the next hop (NSM's dst).
	Endpoint Side = "endpoint"
)

// Other is the opposite side.
func (s Side) Other() Side {
	if s == Client {
		return Endpoint
	}
	return Client
}

// Mechanism types as on the NSM wire (Mechanism.type).
const (
	Kernel    = "KERNEL"
	Memif     = "MEMIF"
	VXLAN     = "VXLAN"
	WireGuard = "WIREGUARD"
	VFIO      = "VFIO"
	// Trunk is known to highwire only; others ignore it.
	Trunk = "HIGHWIRE_TRUNK"
)

// Parameter keys shared by several mechanisms, as on the NSM wire (Mechanism.parameters).
const (
	// ParamInode names a namespace or socket file: "inode://<st_dev>/<st_ino>", decimal.
	ParamInode = "inodeURL"
	// ParamName is the interface name inside the namespace, at most 15 bytes.
	ParamName = "name"
	// ParamSocket is a memif socket name; an abstract one begins with '@'.
	ParamSocket = "socketfile"
)

// Parameter keys of tunnels between nodes. "src" is the side that asked, "dst" the one that answered.
const (
	// ParamSrcIP is an outer address.
	ParamSrcIP = "src_ip"
	// ParamDstIP is an outer address.
	ParamDstIP = "dst_ip"
	// ParamOrigSrcIP is what src_ip was before an inter-domain proxy translated it.
	ParamOrigSrcIP = "orig_src_ip"
	// ParamOrigDstIP is what dst_ip was before an inter-domain proxy translated it.
	ParamOrigDstIP = "orig_dst_ip"
	// ParamSrcPort is the UDP port that src listens on, decimal.
	ParamSrcPort = "src_port"
	// ParamDstPort is the UDP port that dst listens on, decimal.
	ParamDstPort = "dst_port"
	// ParamSrcKey is src's WireGuard public key, base64 of 32 bytes.
	ParamSrcKey = "src_public_key"
	// ParamDstKey is dst's WireGuard public key, base64 of 32 bytes.
	ParamDstKey = "dst_public_key"
	// ParamVNI is the VXLAN network identifier, decimal, 24 bits.
	ParamVNI = "vni"
	// ParamMTU is the largest IP packet inside the tunnel in bytes, decimal. Each side lowers it; 0 or absent is unknown.
	ParamMTU = "MTU"
)

// Inode identifies an open file across processes of one host: a network namespace, a socket.
type Inode struct {
	Dev uint64
	Ino uint64
}

// String is the form used on the NSM wire, "inode://<dev>/<ino>".
func (i Inode) String() string { return fmt.Sprintf("inode://%d/%d", i.Dev, i.Ino) }

// ParseInode reads "inode://<dev>/<ino>", both decimal. Anything else is fault.Invalid.
func ParseInode(s string) (Inode, error) {
	var i Inode
	rest, ok := strings.CutPrefix(s, "inode://")
	if ok {
		_, err := fmt.Sscanf(rest, "%d/%d", &i.Dev, &i.Ino)
		ok = err == nil && i.String() == s
	}
	if !ok {
		return Inode{}, fault.New(fault.Invalid, "inode URL %q: want inode://<dev>/<ino> in decimal", s)
	}
	return i, nil
}

// Route is one route of an end's interface.
type Route struct {
	Prefix netip.Prefix
	// Via is the next hop; the zero Addr means on-link.
	Via netip.Addr
}

// Neighbor is a static neighbour of an end's interface.
type Neighbor struct {
	Addr netip.Addr
	// MAC in the colon form.
	MAC string
}

// PolicyRoute sends traffic that matches to routes of its own (PolicyRoute of the NSM wire).
type PolicyRoute struct {
	// From is a source prefix; the zero Prefix means all addresses of the interface.
	From netip.Prefix
	// Proto is an IP protocol number, 0 for any.
	Proto uint8
	// DstPort and SrcPort are inclusive ranges, zero for any.
	DstPort, SrcPort [2]uint16
	Routes           []Route
}

// End is one end of a vWire as a mechanism sees it: validated, immutable, complete enough to build the end's objects from
// nothing else. It is written to the journal as JSON.
type End struct {
	// VWire is the vWire's id: 1 to 48 bytes of [0-9A-Za-z._-].
	VWire string
	Side  Side
	// Type is the mechanism's type on the wire, e.g. KERNEL.
	Type string
	// Params are the mechanism's parameters as on the wire. Never change the map of an End that was handed on.
	Params  map[string]string
	Payload Payload
	// MTU of the end's interface in bytes (L3), 0 for the default of 1500.
	MTU uint32
	// MAC wanted for the interface inside the peer, empty for one derived from VWire and Side.
	MAC string
	// Addresses of this end's own interface; Remote are those of the opposite end.
	Addresses, Remote []netip.Prefix
	// Routes installed at this end, next hops already resolved.
	Routes    []Route
	Neighbors []Neighbor
	Policies  []PolicyRoute
	// Device is a ready-made device that the forwarder has given to this end, empty for one of its own.
	Device string
	// Offload: both ends can pass packets without checksums and larger than the MTU (GSO); set by the forwarder.
	Offload bool
}

// Name is "<vwire>:<side>": the stem of the names of all objects of this end, and its tag in VPP after "hw:".
func (e End) Name() string { return e.VWire + ":" + string(e.Side) }

// Equal tells whether both ends would be built the same way.
func (e End) Equal(o End) bool {
	return e.VWire == o.VWire && e.Side == o.Side && e.Type == o.Type && e.Payload == o.Payload && e.MTU == o.MTU &&
		e.MAC == o.MAC && e.Device == o.Device && e.Offload == o.Offload && maps.Equal(e.Params, o.Params) &&
		slices.Equal(e.Addresses, o.Addresses) && slices.Equal(e.Remote, o.Remote) && slices.Equal(e.Routes, o.Routes) &&
		slices.Equal(e.Neighbors, o.Neighbors) && slices.EqualFunc(e.Policies, o.Policies, PolicyRoute.Equal)
}

// Equal tells whether both are the same policy.
func (a PolicyRoute) Equal(b PolicyRoute) bool {
	return a.From == b.From && a.Proto == b.Proto && a.DstPort == b.DstPort && a.SrcPort == b.SrcPort &&
		slices.Equal(a.Routes, b.Routes)
}

// Families tells which IP families this vWire uses, judged by the addresses of both ends. With no address at all it is
// both: the ends then speak a protocol of their own.
func (e End) Families() (v4, v6 bool) {
	for _, list := range [][]netip.Prefix{e.Addresses, e.Remote} {
		for _, p := range list {
			v4 = v4 || p.Addr().Is4()
			v6 = v6 || p.Addr().Is6()
		}
	}
	if !v4 && !v6 {
		return true, true
	}
	return v4, v6
}

// NextHop is the address VPP uses as next hop for packets that leave towards this end: its first address of the family,
// or a link-local stand-in where it has none (a zero next hop drops).
func (e End) NextHop(v6 bool) netip.Addr {
	for _, p := range e.Addresses {
		if p.Addr().Is6() == v6 {
			return p.Addr()
		}
	}
	if v6 {
		return netip.MustParseAddr("fe80::1:1")
	}
	return netip.MustParseAddr("169.254.254.1")
}
