package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"github.com/spf13/pflag"

	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif"
	"highwire/mechanisms/trunk"
	"highwire/mechanisms/tunnel"
	"highwire/mechanisms/uplink"
	"highwire/mechanisms/vxlan"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/process"
)

// never is a value of --kernel-direct, --memif-direct and --trunk; the other is auto.
const never = "never"

// ends says what an agent builds the ends of vWires with.
type ends struct {
	kernelDirect string
	kernelPool   int
	kernelQueues uint8
	kernelLimit  int
	memifDirect  string
	memifDir     string
	memifRing    uint32
	memifQueues  uint8
	memifZero    bool
	uplink       string
	tunnelIPs    []string
	trunk        string
	memifGuard   bool
}

func (e *ends) add(flags *pflag.FlagSet) {
	flags.StringVar(&e.kernelDirect, "kernel-direct", never, "auto joins two kernel interfaces of this node by one veth pair, without VPP in between; never")
	flags.IntVar(&e.kernelPool, "kernel-pool", 4, "kernel devices to keep ready in VPP, so that a Request need not wait for one to be made; taps need none")
	flags.IntVar(&e.kernelLimit, "kernel-limit", forwarder.DefaultMaxAFPacket, "kernel interfaces over af_packet that VPP may get: each is polled, takes memory and 40 ms to make; taps have no limit")
	flags.Uint8Var(&e.kernelQueues, "kernel-queues", 0, "queues of a kernel interface in each direction, at most one for each worker of VPP (default: one for each, at most 4)")
	flags.StringVar(&e.memifDirect, "memif-direct", auto, "auto joins two memif peers of this node by memory of their own, without VPP in between; never")
	flags.StringVar(&e.memifDir, "memif-dir", "", "directory shared with clients for memif sockets that are files (default: abstract sockets only)")
	flags.Uint32Var(&e.memifRing, "memif-ring", 1024, "slots of a memif ring, a power of two")
	flags.Uint8Var(&e.memifQueues, "memif-queues", 0, "queues of a memif in each direction (default: one for each worker of VPP, at most 4)")
	flags.BoolVar(&e.memifGuard, "memif-guard", false, "check a memif client's handshake before VPP sees it, which dies of a bad one; its memif is then connected anew when the agent restarts")
	flags.BoolVar(&e.memifZero, "memif-zero-copy", false, "let endpoints map VPP's buffers: faster, and they could read all traffic of the node")
	flags.StringVar(&e.uplink, "uplink", "", "interface that carries tunnels to other nodes; the kernel keeps it (default: the one with --tunnel-ip, or the default route's)")
	flags.StringSliceVar(&e.tunnelIPs, "tunnel-ip", nil, "address of this node that tunnels begin at, repeatable for IPv4 and IPv6 (default: those of the uplink)")
	alsoFrom(flags, "tunnel-ip", "NSM_TUNNEL_IP")
	flags.StringVar(&e.trunk, "trunk", never, "auto carries all vWires to another highwire node in one encrypted tunnel, where both nodes say so; never")
}

// check refuses values that no flag type excludes.
func (e *ends) check() error {
	switch {
	case e.kernelDirect != auto && e.kernelDirect != never:
		return usagef("--kernel-direct %q: want auto or never", e.kernelDirect)
	case e.memifDirect != auto && e.memifDirect != never:
		return usagef("--memif-direct %q: want auto or never", e.memifDirect)
	case e.trunk != auto && e.trunk != never:
		return usagef("--trunk %q: want auto or never", e.trunk)
	case e.kernelPool < 0:
		return usagef("--kernel-pool %d: want 0 or more", e.kernelPool)
	case e.kernelLimit < 1:
		return usagef("--kernel-limit %d: want at least 1", e.kernelLimit)
	case e.memifRing == 0 || e.memifRing&(e.memifRing-1) != 0 || e.memifRing > 1<<14:
		return usagef("--memif-ring %d: want a power of two up to 16384", e.memifRing)
	}
	for _, a := range e.tunnelIPs {
		if ip, err := netip.ParseAddr(a); err != nil || ip.Is4In6() || ip.Zone() != "" {
			return usagef("--tunnel-ip %q: want an IP address", a)
		}
	}
	return nil
}

// underlay finds the uplink of tunnels.
func (e *ends) underlay(log *slog.Logger) (*uplink.Uplink, error) {
	cfg := uplink.Config{Interface: e.uplink, Log: log}
	for _, a := range e.tunnelIPs {
		cfg.Addrs = append(cfg.Addrs, netip.MustParseAddr(a)) // checked
	}
	u, err := uplink.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("--uplink, --tunnel-ip: %w", err)
	}
	return u, nil
}

// buffers is how many buffers VPP needs for so many vWires: what their rings may hold at most, a third more for the packets under
// way (see forwarder), and what VPP has without any. 0 stays the default.
func (e *ends) buffers(vwires int) int {
	end := vppapi.RingBuffers(vppapi.Memif{RingSize: e.memifRing, Queues: e.memifQueues, ZeroCopy: e.memifZero}, 1)
	if backing() == kernel.Tap {
		end = max(end, vppapi.RingBuffers(vppapi.Tap{Queues: e.kernelQueues}, 1))
	}
	if vwires == 0 || end == 0 {
		return 0
	}
	return process.DefaultBuffers + vwires*2*end*4/3
}

// backing is what VPP can make kernel interfaces with on this machine.
func backing() kernel.Backing {
	if _, err := os.Stat("/dev/vhost-net"); err != nil {
		return kernel.Veth
	}
	return kernel.Tap
}

// mechanisms makes the set, in the order in which endpoints are asked, and what ends it. guard is the directory of a memif guard,
// empty for none.
func (e *ends) mechanisms(n *kernel.Namespaces, u tunnel.Underlay, secret wireguard.Secret, guard string) (set mechanisms.Set, closeAll func()) {
	shared := memif.New(memif.Config{
		Namespaces: n, Dir: e.memifDir, RingSize: e.memifRing, Queues: e.memifQueues, ZeroCopy: e.memifZero, Direct: e.memifDirect == auto, Guard: guard,
	})
	set = mechanisms.Set{
		shared, kernel.New(kernel.Config{Namespaces: n, Backing: backing(), Direct: e.kernelDirect == auto, Pool: e.kernelPool, Queues: e.kernelQueues}),
	}
	if e.trunk == auto {
		set = append(set, trunk.New(u, secret))
	}
	return append(set, vxlan.New(u), wireguard.New(u, secret)), shared.Close
}
