package filter

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"highwire/vppapi/fault"
)

// frame is a packet out of layers.
func frame(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, list...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

func ether(t layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: mac(1), DstMAC: mac(2), EthernetType: t}
}

func ip4(p layers.IPProtocol, src, dst byte) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: net.IP{10, 0, 0, src}, DstIP: net.IP{10, 0, 1, dst}}
}

func ip6(p layers.IPProtocol, src, dst byte) *layers.IPv6 {
	at := func(n byte) net.IP { a := netip.MustParseAddr("2001:db8::").As16(); a[15] = n; return a[:] }
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: at(src), DstIP: at(dst)}
}

func payload(n int) gopacket.Payload { return make([]byte, n) }

// samples are frames of every sort that filters tell apart.
func samples(t testing.TB) map[string][]byte {
	vlan := &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}
	fragment := ip4(layers.IPProtocolUDP, 1, 2)
	fragment.FragOffset = 100
	return map[string][]byte{
		"tcp":   frame(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolTCP, 1, 2), &layers.TCP{SrcPort: 1000, DstPort: 80, DataOffset: 5}, payload(10)),
		"udp":   frame(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP, 2, 1), &layers.UDP{SrcPort: 53, DstPort: 2000}, payload(900)),
		"icmp":  frame(t, ether(layers.EthernetTypeIPv4), ip4(layers.IPProtocolICMPv4, 1, 2), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, payload(56)),
		"frag":  frame(t, ether(layers.EthernetTypeIPv4), fragment, payload(64)),
		"tcp6":  frame(t, ether(layers.EthernetTypeIPv6), ip6(layers.IPProtocolTCP, 1, 2), &layers.TCP{SrcPort: 443, DstPort: 3000, DataOffset: 5}, payload(1)),
		"icmp6": frame(t, ether(layers.EthernetTypeIPv6), ip6(layers.IPProtocolICMPv6, 2, 1), payload(40)),
		"arp": frame(t, ether(layers.EthernetTypeARP), &layers.ARP{AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: mac(1), SourceProtAddress: []byte{10, 0, 0, 1}, DstHwAddress: mac(0), DstProtAddress: []byte{10, 0, 1, 2}}),
		"vlan": frame(t, ether(layers.EthernetTypeDot1Q), vlan, ip4(layers.IPProtocolUDP, 3, 4), &layers.UDP{SrcPort: 9, DstPort: 9}, payload(30)),
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	all := samples(t)
	for expression, want := range map[string]string{
		"":                                       "arp frag icmp icmp6 tcp tcp6 udp vlan",
		"ip":                                     "frag icmp tcp udp vlan",
		"ip6":                                    "icmp6 tcp6",
		"arp":                                    "arp",
		"icmp or icmp6":                          "icmp icmp6",
		"tcp":                                    "tcp tcp6",
		"tcp port 80":                            "tcp",
		"port 53":                                "udp",
		"udp dst port 53":                        "",
		"portrange 400-1000":                     "tcp tcp6",
		"host 10.0.0.1":                          "arp frag icmp tcp",
		"src host 10.0.0.2":                      "udp",
		"dst 10.0.1.2":                           "arp frag icmp tcp",
		"ip host 10.0.0.1":                       "frag icmp tcp",
		"net 10.0.1.0/24":                        "arp frag icmp tcp udp vlan",
		"src net 2001:db8::/32":                  "icmp6 tcp6",
		"vlan":                                   "vlan",
		"vlan 7 and port 9":                      "vlan",
		"vlan 8":                                 "",
		"proto 17":                               "frag udp vlan",
		"less 60":                                "arp", // of 42 bytes
		"greater 900":                            "udp",
		"ether src 02:00:00:00:00:01 and not ip": "arp icmp6 tcp6",
		"!(tcp||udp)&&ip":                        "icmp",
		"arp or ip and tcp":                      "tcp", // groups from the left
		"not not arp":                            "arp",
	} {
		f, err := Parse(expression)
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		var got []string
		for _, name := range []string{"arp", "frag", "icmp", "icmp6", "tcp", "tcp6", "udp", "vlan"} {
			if f.Match(Ethernet, all[name], len(all[name])) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", expression, got, want)
		}
	}
	f, err := Parse("tcp port 80 and host 10.0.0.1")
	if err != nil || !f.Match(RawIP, all["tcp"][14:], 50) || f.Match(RawIP, all["tcp6"][14:], 50) {
		t.Error("packets without a frame are not judged", err)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for expression, says := range map[string]string{
		"bogus":                             `at "bogus"`,
		"host":                              "an IP address is wanted",
		"host localhost":                    `at "localhost": an IP address`,
		"port http":                         "a port number",
		"port 1-2":                          "a port number",
		"port 65536":                        "a port number",
		"net 10.0.0.0":                      "a prefix",
		"tcp and":                           "an expression is wanted",
		"(tcp":                              "')' is wanted",
		"tcp udp":                           "an operator is wanted",
		"tcp)":                              "an operator is wanted",
		"ether host x":                      "a MAC",
		"proto 256":                         "a protocol number",
		strings.Repeat("not ", 200) + "tcp": "too deep",
	} {
		if _, err := Parse(expression); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40s: %v, want %q", expression, err, says)
		}
	}
}

// Random expressions mean what they mean to tcpdump.
func TestLikeTcpdump(t *testing.T) {
	t.Parallel()
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Skip("no tcpdump here to compare with")
	}
	file := filepath.Join(t.TempDir(), "x.pcap")
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := pcapgo.NewWriter(out)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for name, b := range samples(t) {
		if name == "vlan" {
			continue // tcpdump looks behind tags only where told to
		}
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(int64(len(frames)), 0), CaptureLength: len(b), Length: len(b)}, b); err != nil {
			t.Fatal(err)
		}
		frames = append(frames, b)
	}
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		expression := random(r, 3)
		f, err := Parse(expression)
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		var want strings.Builder
		for i, b := range frames {
			if f.Match(Ethernet, b, len(b)) {
				want.WriteString(strconv.Itoa(i) + " ")
			}
		}
		shown, err := exec.Command(tcpdump, "-n", "-tt", "-r", file, expression).Output()
		// It refuses what can match nothing at all.
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || !bytes.Contains(exit.Stderr, []byte("rejects all packets"))) {
			t.Fatalf("tcpdump %s: %v", expression, err)
		}
		var got strings.Builder
		for line := range strings.Lines(string(shown)) {
			if seconds, _, ok := strings.Cut(line, "."); ok && !strings.HasPrefix(line, "\t") { // else bytes of a packet
				got.WriteString(seconds + " ")
			}
		}
		if got.String() != want.String() {
			t.Errorf("%s: frames %s, tcpdump has %s", expression, &want, &got)
		}
	}
}

// random is an expression of that depth.
func random(r *rand.Rand, depth int) string {
	primitives := []string{
		"ip", "ip6", "arp", "icmp", "icmp6", "tcp", "udp", "sctp", "tcp port 80", "udp src port 53", "port 443", "dst port 2000", "portrange 50-100",
		"host 10.0.0.1", "src host 10.0.0.2", "dst 10.0.1.2", "net 10.0.1.0/24", "src net 2001:db8::/32", "host 2001:db8::1", "ip host 10.0.0.1",
		"ether src 02:00:00:00:00:01", "ether host 02:00:00:00:00:03", "less 60", "greater 900",
	}
	switch {
	case depth == 0 || r.IntN(4) == 0:
		return primitives[r.IntN(len(primitives))]
	case r.IntN(4) == 0:
		return "not (" + random(r, depth-1) + ")"
	case r.IntN(2) == 0:
		return random(r, depth-1) + " and " + random(r, depth-1)
	}
	return "(" + random(r, depth-1) + ") or " + random(r, depth-1)
}

func FuzzFilter(f *testing.F) {
	for _, b := range samples(f) {
		f.Add("tcp port 80 or not (host 10.0.0.1 and vlan 7)", b)
	}
	f.Add("!((", []byte{})
	f.Fuzz(func(_ *testing.T, expression string, data []byte) {
		if filter, err := Parse(expression); err == nil {
			filter.Match(Ethernet, data, len(data))
			filter.Match(RawIP, data, len(data))
		}
	})
}
