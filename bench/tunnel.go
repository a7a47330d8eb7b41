package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/memif/peer"
	"highwire/vppapi/memif"
)

// tunnelKind is a way between two nodes.
type tunnelKind struct {
	name    string
	payload mechanisms.Payload
	// agent are the agents' flags for it.
	agent []string
	// wireguard and vxlan are what it consists of, vxlan inside of wireguard.
	wireguard, vxlan bool
}

var tunnelKinds = []tunnelKind{
	{name: "vxlan", payload: mechanisms.Ethernet, vxlan: true},
	{name: "wireguard", payload: mechanisms.IP, wireguard: true},
	{name: "trunk", payload: mechanisms.Ethernet, agent: []string{"--trunk", "auto"}, wireguard: true, vxlan: true},
}

// What a hand chooses where agents would not.
const (
	handVNI      = 4097
	handPort     = 61439 + 1024 // within what uplinks pass on to VPP
	handInstance = 777
)

// Addresses inside a trunk by hand.
var handInner = [2]netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}

// handEnd makes an end by hand on the node and returns the name of its interface in VPP.
type handEnd func(node int, vpp *dataplane) (string, error)

// byHand makes a tunnel between the two VPPs as one would with vppctl, and joins it to both ends.
func (p nodePair) byHand(ctx context.Context, t tunnelKind, end handEnd) error {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i, vpp := range []*dataplane{p.near, p.far} {
		name, err := end(i, vpp)
		if err != nil {
			return err
		}
		local, remote := nodeAddrs[i].Addr(), nodeAddrs[1-i].Addr()
		var tunnel string
		if t.wireguard {
			text := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
			out, err := vpp.hand.CLI(ctx, fmt.Sprintf("wireguard create listen-port %d private-key %s src %s", handPort, text(keys[i].Bytes()), local))
			if err != nil {
				return err
			}
			tunnel = strings.TrimSpace(out)
			lines := []string{
				fmt.Sprintf("wireguard peer add %s public-key %s endpoint %s allowed-ip 0.0.0.0/0 allowed-ip ::/0 dst-port %d persistent-keepalive 10",
					tunnel, text(keys[1-i].PublicKey().Bytes()), remote, handPort),
				"set interface state " + tunnel + " up",
			}
			if t.vxlan {
				local, remote = handInner[i], handInner[1-i]
				lines = append(lines, fmt.Sprintf("set interface ip address %s %s/128", tunnel, local), fmt.Sprintf("ip route add %s/128 via %s %s", remote, remote, tunnel))
			}
			if err := vpp.cli(ctx, lines...); err != nil {
				return err
			}
		}
		if t.vxlan {
			tunnel = fmt.Sprintf("vxlan_tunnel%d", handInstance)
			if err := vpp.cli(ctx, fmt.Sprintf("create vxlan tunnel src %s dst %s vni %d instance %d", local, remote, handVNI, handInstance)); err != nil {
				return err
			}
		}
		lines := crossConnect(name, tunnel)
		if t.payload == mechanisms.IP {
			here, there := clientAddr, endpointAddr
			if i == 1 {
				here, there = there, here
			}
			lines = []string{
				fmt.Sprintf("l3xc add %s via %s %s", name, there, tunnel), fmt.Sprintf("l3xc add %s via %s %s", tunnel, here, name),
				"set interface state " + name + " up",
			}
		}
		if err := vpp.cli(ctx, lines...); err != nil {
			return err
		}
	}
	return nil
}

// hand makes kernel ends by hand, with the rings and settings that the agent gives them.
func (e ends) hand(ctx context.Context, p nodePair, t tunnelKind, mtu uint32) handEnd {
	return func(node int, vpp *dataplane) (string, error) {
		space, addr := e.client, clientAddr
		if node == 1 {
			space, addr = e.endpoint, endpointAddr
		}
		host := handDevices[node]
		err := p.nodes[node].Do(func() error {
			if err := veth(host, space, addr); err != nil {
				return err
			}
			link, err := netlink.LinkByName(host)
			if err != nil {
				return err
			}
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+host+"/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("silence %s: %w", host, err)
			}
			return errors.Join(netlink.LinkSetMTU(link, int(mtu)), netlink.LinkSetUp(link))
		})
		if err != nil {
			return "", err
		}
		var mac net.HardwareAddr
		err = space.Do(func() error {
			link, err := netlink.LinkByName(ifaceName)
			if err != nil {
				return err
			}
			mac = link.Attrs().HardwareAddr
			if t.payload == mechanisms.IP {
				err = netlink.LinkSetARPOff(link)
			}
			return errors.Join(err, netlink.LinkSetMTU(link, int(mtu)), kernel.OffloadOff(ifaceName))
		})
		if err != nil {
			return "", err
		}
		name := "host-" + host
		line, neighbor := "create host-interface name "+host+" rx-size 2048 rx-per-block 32 tx-size 10240 tx-per-block 256 cksum-gso-disable", ""
		if t.payload == mechanisms.IP {
			line += " hw-addr " + mac.String()
			neighbor = fmt.Sprintf("set ip neighbor %s %s %s", name, addr, mac)
		}
		err = vpp.cli(ctx, line)
		if err == nil && neighbor != "" {
			err = vpp.cli(ctx, neighbor)
		}
		return name, err
	}
}

// application is what runs at an end of a memif and sends to the other.
type application struct {
	*peer.Peer
	part
	to netip.Addr
}

// newApplication starts one and waits until it is connected.
func newApplication(ctx context.Context, cfg peer.Config, to netip.Addr) (application, error) {
	p, err := peer.New(cfg)
	if err != nil {
		return application{}, err
	}
	a := application{p, start(context.WithoutCancel(ctx), p.Run), to}
	within, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if err := p.Await(within, true); err != nil {
		a.stop()
		return a, fmt.Errorf("the application on memif %s is not connected: %w", cfg.Address.Name, err)
	}
	return a, nil
}

// application runs at the client's end of the caller's vWire.
func (c *caller) application(ctx context.Context, t tunnelKind, client *lab.Namespace) (application, error) {
	to, _, err := c.peer()
	if err != nil {
		return application{}, err
	}
	own, err := netip.ParsePrefix(c.conn.GetContext().GetIpContext().GetSrcIpAddrs()[0])
	if err != nil {
		return application{}, err
	}
	return newApplication(ctx, peer.Config{
		L3: t.payload == mechanisms.IP, Addresses: []netip.Prefix{own},
		Address: memif.Address{Name: c.conn.GetMechanism().GetParameters()[mechanisms.ParamSocket], Netns: client.Path()},
	}, to)
}

// handMemifs makes memif ends and the tunnel between them by hand, and runs the applications at both. It returns the client's.
func (p nodePair) handMemifs(ctx context.Context, t tunnelKind, e ends) (application, error) {
	l3, mode := t.payload == mechanisms.IP, ""
	if l3 {
		mode = " mode ip"
	}
	config := func(addr netip.Addr, socket string, n *lab.Namespace) peer.Config {
		return peer.Config{L3: l3, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}, Address: memif.Address{Name: "@" + socket, Netns: n.Path()}}
	}
	sink := config(endpointAddr, "hand-endpoint", e.endpoint)
	sink.Master = true
	drain, err := peer.New(sink)
	if err == nil {
		err = drain.Listen()
	}
	if err != nil {
		return application{}, err
	}
	draining := start(context.WithoutCancel(ctx), drain.Run)
	p.later(func() error { draining.stop(); return nil })
	err = p.byHand(ctx, t, func(node int, vpp *dataplane) (string, error) {
		n, socket, role := e.client, "hand-client", "master"
		if node == 1 {
			n, socket, role = e.endpoint, "hand-endpoint", "slave no-zero-copy"
		}
		return "memif777/0", vpp.cli(ctx,
			fmt.Sprintf("create memif socket id 777 filename abstract:%s,netns_name=%s", socket, n.Path()),
			"create interface memif socket-id 777 id 0 ring-size 1024 "+role+mode, "set interface rx-mode memif777/0 adaptive")
	})
	if err != nil {
		return application{}, err
	}
	return newApplication(ctx, config(clientAddr, "hand-client", e.client), endpointAddr)
}

var tunnelColumn = regexp.MustCompile(`(?m)^((?:vxlan_tunnel|wg)\d+) +\d+ +(?:up|down) `)

// tunnelOut is the interface of the far VPP that packets of a tunnel come out of, of two the one that is not the other.
func (p nodePair) tunnelOut(ctx context.Context, t tunnelKind, other string) (string, error) {
	out, err := p.far.hand.CLI(ctx, "show interface")
	if err != nil {
		return "", err
	}
	for _, m := range tunnelColumn.FindAllStringSubmatch(out, -1) {
		if strings.HasPrefix(m[1], "vxlan") == t.vxlan && m[1] != other {
			return m[1], nil
		}
	}
	return "", fmt.Errorf("the far VPP has no tunnel of %s:\n%s", t.name, out)
}

// packets is a trial: how many million packets a second come out of the tunnel in the far VPP, and how many clocks both VPPs spend
// on each.
func (p nodePair) packets(from application, out string, length time.Duration) Trial {
	return func(ctx context.Context) ([]float64, error) {
		before, err := p.settled(ctx, out)
		if err = errors.Join(err, p.near.cli(ctx, "clear runtime"), p.far.cli(ctx, "clear runtime")); err != nil {
			return nil, err
		}
		begun := time.Now()
		within, cancel := context.WithTimeout(ctx, length)
		_, err = from.Generate(within, peer.Traffic{To: from.to})
		cancel()
		took := time.Since(begun)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return []float64{0, 0}, errDisturbed // even the question for the other side's MAC was not answered in time
		}
		if err != nil {
			return nil, err
		}
		after, err := p.settled(ctx, out)
		if err != nil {
			return nil, err
		}
		near, err := p.near.runtime(ctx)
		if err != nil {
			return nil, err
		}
		far, err := p.far.runtime(ctx)
		return []float64{float64(after-before) / took.Seconds() / 1e6, near.clocksPerPacket("memif-input") + far.clocksPerPacket("af-packet-input")}, err
	}
}

// settled is how many packets the interface of the far VPP has received once no more come.
func (p nodePair) settled(ctx context.Context, name string) (uint64, error) {
	last, err := p.far.count(ctx, name, "rx packets")
	for err == nil {
		if err = pause(ctx, 10*time.Millisecond); err != nil {
			break
		}
		now, err := p.far.count(ctx, name, "rx packets")
		if err != nil || now == last {
			return now, err
		}
		last = now
	}
	return last, err
}
