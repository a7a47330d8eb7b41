package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cpu looks for the instructions that builds of VPP use.
func (m Machine) cpu(context.Context) Finding {
	text, err := m.read("proc/cpuinfo")
	if err != nil {
		return unknown(err)
	}
	cores := strings.Count("\n"+text, "\nprocessor")
	if runtime.GOARCH != "amd64" {
		return ok("%d cores of %s", cores, runtime.GOARCH)
	}
	flags := map[string]bool{}
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			for _, f := range strings.Fields(value) {
				flags[f] = true
			}
			break
		}
	}
	var has []string
	for _, f := range []string{"avx2", "avx512f", "pclmulqdq", "aes"} {
		if flags[f] {
			has = append(has, f)
		}
	}
	f := ok("%d cores with %s", cores, strings.Join(append([]string{"sse4_2"}, has...), ", "))
	switch {
	case !flags["sse4_2"]:
		f = Finding{Verdict: Fail, Found: "no SSE4.2: VPP ends with an illegal instruction", Remedy: "use another machine, or give the virtual one the host's CPU model (-cpu host)"}
	case !flags["avx2"]:
		f.Verdict, f.Remedy = Warn, "without AVX2 VPP runs on its slow code; give a virtual machine the host's CPU model (-cpu host)"
	case cores < 2:
		f.Verdict, f.Remedy = Warn, "with one core VPP's polling and everything else take turns; give it two or more"
	}
	return f
}

// memInfo is a line of /proc/meminfo in MiB.
func (m Machine) memInfo(name string) (int, error) {
	text, err := m.read("proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", name)
}

// wantMB is what a VPP with our configuration and an agent take.
const wantMB = 1024

func (m Machine) memory(context.Context) Finding {
	free, err := m.memInfo("MemAvailable")
	if err != nil {
		return unknown(err)
	}
	if free < wantMB {
		return Finding{Verdict: Warn, Found: fmt.Sprintf("%d MiB available", free), Remedy: fmt.Sprintf("VPP with its default heap and buffers wants %d MiB; free some", wantMB)}
	}
	return ok("%d MiB available", free)
}

func (m Machine) hugepages(context.Context) Finding {
	free, err := m.read("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
	if err != nil {
		return unknown(err)
	}
	n, err := strconv.Atoi(free)
	if err != nil {
		return unknown(err)
	}
	// 32768 buffers of 2496 bytes.
	if n < 40 {
		return Finding{Verdict: Warn, Found: fmt.Sprintf("%d pages of 2 MiB are free", n), Remedy: "VPP runs with small pages, somewhat slower; reserve some: sysctl -w vm.nr_hugepages=128"}
	}
	return ok("%d pages of 2 MiB are free", n)
}

func (m Machine) vhostNet(context.Context) Finding {
	f, err := os.OpenFile(m.path("dev/vhost-net"), os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = f.Close()
		return ok("VPP can make taps")
	case errors.Is(err, os.ErrNotExist):
		return Finding{Verdict: Warn, Found: "no /dev/vhost-net: kernel interfaces go over af_packet, 40 ms each to make and few", Remedy: "modprobe vhost_net; in a container mount /dev/vhost-net"}
	case errors.Is(err, os.ErrPermission):
		return Finding{Verdict: Warn, Found: "/dev/vhost-net may not be opened", Remedy: "run as root, or let the container's device rules allow it"}
	}
	return unknown(err)
}

func (m Machine) kernel(context.Context) Finding {
	text, err := m.read("proc/sys/kernel/osrelease")
	if err != nil {
		return unknown(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return unknown(fmt.Errorf("version %q: %w", text, err))
	}
	if major < 5 || major == 5 && minor < 4 {
		return Finding{Verdict: Warn, Found: "Linux " + text, Remedy: "tested from 5.4 on; use a newer kernel"}
	}
	return ok("Linux %s", text)
}

// Capabilities that an agent needs, by their bits.
var needed = map[string]uint{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN}

func (m Machine) permissions(context.Context) Finding {
	text, err := m.read("proc/self/status")
	if err != nil {
		return unknown(err)
	}
	_, rest, _ := strings.Cut(text, "CapEff:")
	caps, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 16, 64)
	if err != nil {
		return unknown(err)
	}
	var missing []string
	for _, name := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"} {
		if caps&(1<<needed[name]) == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return Finding{Verdict: Fail, Found: "an agent started like this lacks " + strings.Join(missing, ", "), Remedy: "run it as root, or give it these capabilities"}
	}
	return ok("network namespaces and interfaces can be made")
}

// clock: tokens and certificates are refused by nodes whose clocks differ.
func clock(context.Context) Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return unknown(err)
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return Finding{Verdict: Warn, Found: "nobody keeps the clock right", Remedy: "run chrony or another NTP client: identities and tokens of other nodes are judged by the clock"}
	}
	return ok("kept right, at most %d ms off", t.Maxerror/1000)
}

// tunnelBytes is what the outer headers of a WireGuard tunnel over IPv6 take; those of vxlan take less.
const tunnelBytes = 80

// uplink is the interface by which other nodes are reached.
func uplink(context.Context) Finding {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return unknown(err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.LinkIndex == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return unknown(err)
		}
		a := link.Attrs()
		f := ok("%s, MTU %d: vWires to other nodes can carry %d", a.Name, a.MTU, a.MTU-tunnelBytes)
		switch {
		case a.OperState == netlink.OperDown:
			f = Finding{Verdict: Fail, Found: a.Name + " is down", Remedy: "ip link set " + a.Name + " up, and look at its cable"}
		case a.MTU < 1500+tunnelBytes:
			f.Verdict, f.Remedy = Warn, fmt.Sprintf("packets of 1500 bytes do not fit into a tunnel; raise the MTU to %d or give vWires a smaller one", 1500+tunnelBytes)
		}
		return f
	}
	return Finding{Verdict: Warn, Found: "no default route", Remedy: "without one other nodes are reached only by routes of their own; a single node needs none"}
}
