package kernel

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

var update = flag.Bool("update", false, "write golden files anew")

// sample is the client's end of a vWire with addresses of the families.
func sample(payload mechanisms.Payload, families ...string) mechanisms.End {
	e := mechanisms.End{
		VWire: "w", Side: mechanisms.Client, Type: mechanisms.Kernel, Payload: payload,
		Params: map[string]string{mechanisms.ParamInode: "inode://4/5", mechanisms.ParamName: "nsm-1"},
	}
	for _, f := range families {
		own, remote, far := "10.0.0.1/32", "10.0.0.2/32", "10.1.0.0/16"
		if f == "ip6" {
			own, remote, far = "fd00::1/128", "fd00::2/128", "fd01::/64"
		}
		e.Addresses = append(e.Addresses, netip.MustParsePrefix(own))
		e.Remote = append(e.Remote, netip.MustParsePrefix(remote))
		e.Routes = append(e.Routes, mechanisms.Route{Prefix: netip.MustParsePrefix(far), Via: netip.MustParsePrefix(remote).Addr()},
			mechanisms.Route{Prefix: netip.MustParsePrefix(remote)})
	}
	return e
}

// TestObjects holds what an end becomes to golden files; run with -update to write them.
func TestObjects(t *testing.T) {
	t.Parallel()
	full := sample(mechanisms.IP, "ip4", "ip6")
	full.MTU, full.MAC, full.Offload = 1400, "02:00:00:00:00:07", true
	full.Neighbors = []mechanisms.Neighbor{{Addr: netip.MustParseAddr("10.0.0.2"), MAC: "02:00:00:00:00:08"}}
	cases := map[string]mechanisms.End{"IP-full": full}
	for _, payload := range []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP} {
		for name, families := range map[string][]string{"none": nil, "ip4": {"ip4"}, "ip6": {"ip6"}, "dual": {"ip4", "ip6"}} {
			cases[fmt.Sprintf("%s-%s", payload, name)] = sample(payload, families...)
		}
	}
	for _, backing := range []Backing{Veth, Tap} {
		m := New(Config{Namespaces: NewNamespaces(), Backing: backing})
		for name, e := range cases {
			t.Run(fmt.Sprintf("%s-%s", backing, name), func(t *testing.T) {
				t.Parallel()
				list, err := m.Objects(e)
				if err != nil {
					t.Fatal(err)
				}
				again, err := m.Objects(e)
				if err != nil || !reflect.DeepEqual(list, again) {
					t.Errorf("the same end gives other objects: %v, %v", again, err)
				}
				want := make(map[vppapi.Key]vppapi.Object)
				for _, o := range list {
					want[o.Key()] = o
				}
				if _, ok := want[vppapi.Interface(e.Name())]; !ok || len(want) != len(list) {
					t.Errorf("no interface, or two objects with one key: %v", list)
				}
				got := vppapi.Diff(want, nil).String()
				file := filepath.Join("testdata", "objects", fmt.Sprintf("%s-%s.golden", backing, name))
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				golden, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(golden) {
					t.Errorf("got\n%s\nwant\n%s", got, golden)
				}
			})
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		inode, iface, mac string
		says              string // of the error, empty for none
	}{
		"good":         {"inode://4/5", "nsm-1", "", ""},
		"longest name": {"inode://4/5", "fifteen-bytes-x", "", ""},
		"umlaut":       {"inode://4/5", "größe", "", ""},
		"MAC":          {"inode://4/5", "nsm-1", "02:00:00:00:00:01", ""},
		"MAC dashes":   {"inode://4/5", "nsm-1", "02-00-00-00-00-01", ""},
		"no inode":     {"", "nsm-1", "", "inode URL"},
		"hex inode":    {"inode://0x4/5", "nsm-1", "", "inode URL"},
		"no name":      {"inode://4/5", "", "", "1 to 15 bytes"},
		"long name":    {"inode://4/5", "sixteen-bytes-xx", "", "1 to 15 bytes"},
		"slash":        {"inode://4/5", "a/b", "", "interface name"},
		"colon":        {"inode://4/5", "eth0:1", "", "interface name"},
		"blank":        {"inode://4/5", "a b", "", "interface name"},
		"newline":      {"inode://4/5", "a\n", "", "interface name"},
		"NUL":          {"inode://4/5", "a\x00b", "", "interface name"},
		"dot":          {"inode://4/5", ".", "", "interface name"},
		"dots":         {"inode://4/5", "..", "", "interface name"},
		"pattern":      {"inode://4/5", "nsm%d", "", "interface name"},
		"all":          {"inode://4/5", "all", "", "interface name"},
		"default":      {"inode://4/5", "default", "", "interface name"},
		"no MAC":       {"inode://4/5", "nsm-1", "nonsense", "MAC"},
		"EUI-64":       {"inode://4/5", "nsm-1", "02:00:00:00:00:00:00:01", "MAC"},
		"multicast":    {"inode://4/5", "nsm-1", "01:00:5e:00:00:01", "MAC"},
		"broadcast":    {"inode://4/5", "nsm-1", "ff:ff:ff:ff:ff:ff", "MAC"},
	} {
		e := sample(mechanisms.Ethernet, "ip4")
		e.Params = map[string]string{mechanisms.ParamInode: c.inode, mechanisms.ParamName: c.iface}
		e.MAC = c.mac
		p, err := parse(e)
		if c.says == "" {
			if err != nil || p.name != c.iface || p.mac[0]&1 != 0 {
				t.Errorf("%s: %+v, %v", name, p, err)
			}
		} else if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v: %v", name, fault.KindOf(err), err)
		}
	}
}

// TestNames: the kernel takes every name that CheckName takes, byte for byte.
func TestNames(t *testing.T) {
	t.Parallel()
	ns, _ := newNamespace(t, NewNamespaces())
	vethIn(t, ns, "near", "far")
	names := []string{"all", "default", "fifteen-bytes-x", "sixteen-bytes-xx", ".", "..", "...", "größe", "cafà"}
	for c := range 256 {
		names = append(names, fmt.Sprintf("x%cy", c), "x"+string([]byte{byte(c)})+"y")
	}
	do(t, ns, func() error {
		link, err := netlink.LinkByName("near")
		if err != nil {
			return err
		}
		for _, name := range names {
			if CheckName(name) != nil {
				continue
			}
			err := netlink.LinkSetName(link, name)
			made, e := netlink.LinkByIndex(link.Attrs().Index)
			if e != nil {
				return e
			}
			if err != nil || made.Attrs().Name != name {
				t.Errorf("%q is accepted; the kernel makes it %q, %v", name, made.Attrs().Name, err)
			}
		}
		return nil
	})
}

// FuzzEnd: whatever parameters a peer sends, it gets objects or fault.Invalid, and no name the kernel would not take.
func FuzzEnd(f *testing.F) {
	for _, name := range []string{"nsm-1", "", "..", "a/b", "all", "caf\xc3\xa0", "nsm%d", "sixteen-bytes-xx"} {
		f.Add("inode://4/5", name, "", "IP", uint32(0), "10.0.0.1/32")
	}
	f.Add("inode://4/5/6", "nsm-1", "02:00:00:00:00:01", "ETHERNET", uint32(1500), "fd00::1/128")
	f.Add("", "", "01:00", "", ^uint32(0), "")
	f.Fuzz(func(t *testing.T, inode, name, mac, payload string, mtu uint32, address string) {
		e := mechanisms.End{
			VWire: "w", Side: mechanisms.Client, Type: mechanisms.Kernel, Payload: mechanisms.Payload(payload), MTU: mtu, MAC: mac,
			Params: map[string]string{mechanisms.ParamInode: inode, mechanisms.ParamName: name},
		}
		if p, err := netip.ParsePrefix(address); err == nil {
			e.Addresses, e.Routes = []netip.Prefix{p}, []mechanisms.Route{{Prefix: p}}
		}
		for _, backing := range []Backing{Veth, Tap} {
			list, err := New(Config{Namespaces: NewNamespaces(), Backing: backing}).Objects(e)
			if err != nil {
				if !fault.Is(err, fault.Invalid) || len(list) > 0 {
					t.Errorf("%v: %v, %v", fault.KindOf(err), err, list)
				}
				continue
			}
			if !validName(name) {
				t.Errorf("name %q is accepted", name)
			}
			if host := HostName(e.Name()); !validName(host) {
				t.Errorf("name %q of our own", host)
			}
			for _, o := range list {
				if strings.ContainsAny(o.String(), "\x00\n") {
					t.Errorf("%q", o)
				}
			}
		}
	})
}

// validName is dev_valid_name of the kernel's net/core/dev.c, without what it takes as a pattern.
func validName(name string) bool {
	if name == "" || len(name) >= 16 || name == "." || name == ".." || name == "all" || name == "default" {
		return false
	}
	for _, c := range []byte(name) {
		if c == '/' || c == ':' || c == '%' || c == ' ' || c >= '\t' && c <= '\r' || c == 0xa0 {
			return false
		}
	}
	return true
}
