package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// What an endpoint gives its clients arrives in their namespaces: addresses, the same ones again after everybody was restarted, and
// routes, for all packets or some.
func TestAddresses(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", pocket)
	far, home, away := space(t), space(t), space(t)
	policies := n.path("policies.yaml")
	if err := os.WriteFile(policies, []byte("- proto: 6\n  dstport: 6666\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint := func() *program {
		p := n.join("endpoint", "--service", "db", "--netns", far.Path(), "--cidr", "[10.9.1.0/31,10.9.2.0/24],fd09::/64", "--exclude", "10.9.2.0/30",
			"--route", "10.20.0.0/16", "--policy-routes", policies, "--leases", n.path("leases"))
		p.await("registered")
		return p
	}
	first := []string{"client", "--name", "first", "--netns", home.Path(), "kernel://db/db0"}
	second := []string{"client", "--name", "second", "--netns", away.Path(), "kernel://db/db0"}
	nse, one := endpoint(), n.join(first...)
	one.await("addresses 10.9.1.1/32 fd09::3/128")
	if err := home.Do(func() error {
		link, err := netlink.LinkByName("db0")
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		found := false
		for _, r := range routes {
			found = found || r.Dst != nil && r.Dst.String() == "10.20.0.0/16" && r.Gw.String() == "10.9.1.0"
		}
		if !found {
			t.Errorf("no route to 10.20.0.0/16 via 10.9.1.0 among %v", routes)
		}
		rules, err := netlink.RuleList(netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.IPProto != 6 || r.Dport == nil || r.Dport.Start != 6666 || r.Src.String() != "10.9.1.1/32" {
				continue
			}
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: r.Table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			if len(routes) != 1 || routes[0].Gw.String() != "10.9.1.0" {
				t.Errorf("table %d of rule %v has %v", r.Table, r, routes)
			}
			return nil
		}
		t.Errorf("no rule for TCP to port 6666 from 10.9.1.1 among %v", rules)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	one.end(syscall.SIGTERM)
	nse.end(syscall.SIGKILL)

	endpoint()
	two := n.join(second...)
	two.await("addresses 10.9.2.5/32 fd09::5/128") // what the first one had is kept for it
	n.join(first...).await("addresses 10.9.1.1/32 fd09::3/128")
	two.end(syscall.SIGTERM)
	n.join(second...).await("addresses 10.9.2.5/32 fd09::5/128")
}

func TestAddressesUsage(t *testing.T) {
	policies := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(policies, []byte("- to: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"a bracket is not closed": {"--cidr", "[10.0.0.0/24"},
		"--exclude":               {"--exclude", "10.0.0.0"},
		"--route":                 {"--route", "x"},
		"no such file":            {"--policy-routes", "/proc/none"},
		"unknown field":           {"--policy-routes", policies},
	} {
		if code, _, stderr := execute(t, append([]string{"endpoint"}, args...)...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%v: code %d, %s; want %q", args, code, stderr, want)
		}
	}
}
