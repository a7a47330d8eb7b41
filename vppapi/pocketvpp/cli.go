package pocketvpp

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip_neighbor"
	"go.fd.io/govpp/binapi/vlib"
)

// cliUnknown is the retval of a line that VPP's CLI does not understand.
const cliUnknown = -1

// cliMessages run a line of VPP's CLI.
func (s *Server) cliMessages(t *table) {
	request(t, func(_ *call, q *vlib.CliInband) vlib.CliInbandReply {
		text, ok := s.runCLI(q.Cmd)
		if !ok {
			return vlib.CliInbandReply{Retval: cliUnknown, Reply: text}
		}
		return vlib.CliInbandReply{Reply: text}
	})
}

// commands are the lines understood, in the order tried. Words may be shortened as in VPP.
var commands = []struct {
	line string
	run  func(s *Server, out *strings.Builder)
}{
	{"show version", (*Server).showVersion},
	{"show interface address", (*Server).showAddresses},
	{"show interface rx-placement", (*Server).showRxPlacement},
	{"show interface", (*Server).showInterfaces},
	{"show hardware-interfaces", (*Server).showHardware},
	{"show hardware-interfaces brief", (*Server).showHardware},
	{"show mode", (*Server).showMode},
	{"show tap", (*Server).showTaps},
	{"show memif", (*Server).showMemifs},
	{"show l3xc", (*Server).showL3xc},
	{"show ip neighbor", (*Server).showNeighbors},
	{"show ip fib", (*Server).showRoutes},
}

// runCLI runs one line; ok is false where it is not understood.
func (s *Server) runCLI(line string) (text string, ok bool) {
	words := strings.Fields(line)
	for _, c := range commands {
		if abbreviates(words, strings.Fields(c.line)) {
			var out strings.Builder
			c.run(s, &out)
			return out.String(), true
		}
	}
	if len(words) > 1 && abbreviates(words[:1], []string{"show"}) {
		return fmt.Sprintf("show: unknown input `%s'\n", strings.Join(words[1:], " ")), false
	}
	return fmt.Sprintf("unknown input `%s'\n", strings.Join(words, " ")), false
}

func abbreviates(words, full []string) bool {
	if len(words) != len(full) {
		return false
	}
	for i := range words {
		if !strings.HasPrefix(full[i], words[i]) {
			return false
		}
	}
	return true
}

func (s *Server) showVersion(out *strings.Builder) {
	fmt.Fprintf(out, "vpp v%s built by highwire on %s\n", Version, s.started.UTC().Format("2006-01-02T15:04:05"))
}

func (s *Server) showInterfaces(out *strings.Builder) {
	fmt.Fprintf(out, "%s%s%s%s%s%s\n", center("Name", 32), center("Idx", 5), center("State", 10),
		center("MTU (L3/IP4/IP6/MPLS)", 21), center("Counter", 16), center("Count", 16))
	for i := range s.ifacesByName() {
		line := fmt.Sprintf("%-32s%s%s%s", i.name, center(fmt.Sprint(i.index), 5), center(upDown(i.admin, "down"), 10),
			center(fmt.Sprintf("%d/%d/%d/%d", i.mtu[0], i.mtu[1], i.mtu[2], i.mtu[3]), 21))
		c := &i.counters
		for _, counter := range []struct {
			name  string
			value uint64
		}{
			{"rx packets", c.RxPackets.Load()}, {"rx bytes", c.RxBytes.Load()},
			{"tx packets", c.TxPackets.Load()}, {"tx bytes", c.TxBytes.Load()},
			{"drops", c.Drops.Load()}, {"tx-error", c.TxErrors.Load()},
		} {
			if counter.value != 0 {
				fmt.Fprintf(out, "%s%-16s%16d\n", line, counter.name, counter.value)
				line = strings.Repeat(" ", 68)
			}
		}
		if strings.TrimSpace(line) != "" {
			fmt.Fprintln(out, line)
		}
	}
}

func (s *Server) showAddresses(out *strings.Builder) {
	for i := range s.ifacesByName() {
		fmt.Fprintf(out, "%s (%s):\n", i.name, upDown(i.admin, "dn"))
		if i.xconnect != nil {
			fmt.Fprintf(out, "  L2 xconnect %s\n", i.xconnect.name)
		}
		for _, prefix := range i.addresses {
			fmt.Fprintf(out, "  L3 %s\n", prefix)
		}
	}
}

func (s *Server) showRxPlacement(out *strings.Builder) {
	for t, name := range s.threadNames() {
		fmt.Fprintf(out, "Thread %d (%s):\n", t, name)
		for _, node := range []struct{ name, devType string }{{"af-packet-input", devAFPacket}, {"memif-input", devMemif}, {"virtio-input", devTap}} {
			header := fmt.Sprintf(" node %s:\n", node.name)
			for i := range s.ifaces.values() {
				for q, thread := range i.threads {
					if i.devType == node.devType && !i.queueless() && thread == uint32(t) {
						fmt.Fprintf(out, "%s    %s queue %d (%s)\n", header, i.name, q, modeName(i.rxMode))
						header = ""
					}
				}
			}
		}
	}
}

// threadNames are those of VPP's threads, the main one first.
func (s *Server) threadNames() []string {
	names := []string{"vpp_main"}
	for i := range s.cfg.Workers {
		names = append(names, fmt.Sprintf("vpp_wk_%d", i))
	}
	return names
}

func (s *Server) showHardware(out *strings.Builder) {
	fmt.Fprintf(out, "%s%s%sHardware\n", center("Name", 32), center("Idx", 6), center("Link", 8))
	for i := range s.ifacesByName() {
		fmt.Fprintf(out, "%-32s%s%s%s\n  Link speed: unknown\n", i.name, center(fmt.Sprint(i.index), 6), center(upDown(i.link, "down"), 8), i.name)
		if !i.queueless() {
			fmt.Fprintf(out, "  RX Queues:\n    queue thread         mode      \n    0     main (0)       %s\n", modeName(i.rxMode))
		}
		if i.eth {
			fmt.Fprintf(out, "  Ethernet address %s\n", macString(i.mac))
		}
		if i.local {
			fmt.Fprintln(out, "  local")
		}
	}
}

func (s *Server) showMode(out *strings.Builder) {
	for i := range s.ifaces.values() {
		if i.xconnect != nil {
			fmt.Fprintf(out, "l2 xconnect %s %s\n", i.name, i.xconnect.name)
		} else {
			fmt.Fprintf(out, "l3 %s  \n", i.name)
		}
	}
}

func (s *Server) showTaps(out *strings.Builder) {
	for i := range s.ifaces.values() {
		if port, ok := i.port.(*tap); ok {
			d := &port.details
			fmt.Fprintf(out, "Interface: %s (ifindex %d)\n  name %q\n  host-ns %q\n  host-mac-addr: %s\n  host-mtu-size: %d\n",
				i.name, i.index, d.HostIfName, d.HostNamespace, macString(d.HostMacAddr), d.HostMtuSize)
			fmt.Fprintf(out, "  gso-enabled %d\n  csum-enabled %d\n", bit(port.gso), bit(port.checksum && !port.gso))
		}
	}
}

func (s *Server) showL3xc(out *strings.Builder) {
	for id, entry := range s.l3xcList.all() {
		name := "DELETED"
		if i, _ := s.find(interface_types.InterfaceIndex(entry.key.index)); i != nil {
			name = i.name
		}
		fmt.Fprintf(out, "l3xc:[%d]: %s\n", id, name)
		for n, path := range entry.paths {
			proto := [...]string{"ip4", "ip6"}[entry.key.version]
			fmt.Fprintf(out, "      path:[%d] %s weight=%d pref=%d attached-nexthop:\n        %s", n, proto, path.Weight, path.Preference, pathAddr(path))
			if i, _ := s.find(interface_types.InterfaceIndex(path.SwIfIndex)); i != nil {
				fmt.Fprintf(out, " %s", i.name)
			}
			fmt.Fprintln(out)
		}
		if via := entry.via; via.out == nil || !via.out.admin {
			fmt.Fprintf(out, "  [@0]: dpo-drop %s\n", [...]string{"ip4", "ip6"}[entry.key.version])
		} else {
			fmt.Fprintf(out, "  [@0]: %s via %s %s: mtu:%d\n", [...]string{"ipv4", "ipv6"}[entry.key.version], via.nextHop, via.out.name, via.out.mtu[0])
		}
	}
}

func (s *Server) showNeighbors(out *strings.Builder) {
	header := center("Age", 12) + center("IP", 40) + center("Flags", 6) + center("Ethernet", 20) + center("Interface", 24) + "\n"
	for i := range s.ifaces.values() {
		for _, addr := range slices.SortedFunc(maps.Keys(i.neighbors), netip.Addr.Compare) {
			n := i.neighbors[addr]
			flag := "D"
			if n.flags&ip_neighbor.IP_API_NEIGHBOR_FLAG_STATIC != 0 {
				flag = "S"
			}
			fmt.Fprintf(out, "%s%s%s%s%s%s\n", header, center(fmt.Sprintf("%.4f", time.Since(n.since).Seconds()), 12),
				center(addr.String(), 40), center(flag, 6), center(macString(n.mac), 20), i.name)
			header = ""
		}
	}
}
