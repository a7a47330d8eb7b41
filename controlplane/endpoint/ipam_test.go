package endpoint

import (
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ipamOf(t *testing.T, prefixes ...string) *ipam {
	t.Helper()
	m, err := newIPAM(parse(prefixes...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func parse(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func show(pairs []pair) string {
	var out []string
	for _, p := range pairs {
		out = append(out, p.Dst.String()+"-"+p.Src.String())
	}
	return strings.Join(out, " ")
}

func TestAssign(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		pools    []string
		excluded []string
		want     string // of connections a, b, c; "full" for one that gets nothing
	}{
		"one pair":             {[]string{"172.16.1.100/31"}, nil, "172.16.1.100-172.16.1.101, full, full"},
		"small":                {[]string{"10.0.0.0/30"}, nil, "10.0.0.0-10.0.0.1, 10.0.0.2-10.0.0.3, full"},
		"net and broadcast":    {[]string{"10.0.0.0/29"}, nil, "10.0.0.2-10.0.0.3, 10.0.0.4-10.0.0.5, full"},
		"unaligned is masked":  {[]string{"172.16.1.101/31"}, nil, "172.16.1.100-172.16.1.101, full, full"},
		"both families":        {[]string{"10.0.0.0/30", "2001:db8::/127"}, nil, "10.0.0.0-10.0.0.1 2001:db8::-2001:db8::1, full, full"},
		"large v6":             {[]string{"2001:db8::/32"}, nil, "2001:db8::2-2001:db8::3, 2001:db8::4-2001:db8::5, 2001:db8::6-2001:db8::7"},
		"large exclusion":      {[]string{"2001:db8::/32"}, []string{"2001:db8::/33"}, "2001:db8:8000::-2001:db8:8000::1, 2001:db8:8000::2-2001:db8:8000::3, 2001:db8:8000::4-2001:db8:8000::5"},
		"address excluded":     {[]string{"10.0.0.0/29"}, []string{"10.0.0.3/32"}, "10.0.0.4-10.0.0.5, full, full"},
		"everything excluded":  {[]string{"10.0.0.0/8"}, []string{"0.0.0.0/0"}, "full, full, full"},
		"end of address space": {[]string{"255.255.255.254/31"}, nil, "255.255.255.254-255.255.255.255, full, full"},
		"end of v6":            {[]string{"ffff::/16"}, []string{"ffff::/16"}, "full, full, full"},
	}
	for name, test := range tests {
		m := ipamOf(t, test.pools...)
		var got []string
		for _, id := range []string{"a", "b", "c"} {
			pairs, err := m.assign(id, nil, nil, parse(test.excluded...))
			if err != nil {
				if !fault.Is(err, fault.Exhausted) {
					t.Errorf("%s: %v", name, err)
				}
				got = append(got, "full")
				continue
			}
			got = append(got, show(pairs))
		}
		if have := strings.Join(got, ", "); have != test.want {
			t.Errorf("%s: %s; want %s", name, have, test.want)
		}
	}
}

func TestPolite(t *testing.T) {
	t.Parallel()
	m := ipamOf(t, "10.0.0.0/24")
	ask := func(id, src, dst string, excluded ...string) string {
		t.Helper()
		pairs, err := m.assign(id, parse(src), parse(dst), parse(excluded...))
		if err != nil {
			t.Fatal(err)
		}
		return show(pairs)
	}
	steps := []struct{ what, got, want string }{
		{"free", ask("a", "10.0.0.9/32", "10.0.0.8/32"), "10.0.0.8-10.0.0.9"},
		{"refresh", ask("a", "10.0.0.9/32", "10.0.0.8/32"), "10.0.0.8-10.0.0.9"},
		{"somebody else's", ask("b", "10.0.0.9/32", "10.0.0.8/32"), "10.0.0.2-10.0.0.3"},
		{"of another pool", ask("c", "10.9.0.9/32", "10.9.0.8/32"), "10.0.0.4-10.0.0.5"},
		{"no pair", ask("d", "10.0.0.12/32", "10.0.0.11/32"), "10.0.0.6-10.0.0.7"},
		{"excluded since", ask("a", "10.0.0.9/32", "10.0.0.8/32", "10.0.0.8/31"), "10.0.0.10-10.0.0.11"},
	}
	for _, s := range steps {
		if s.got != s.want {
			t.Errorf("%s: %s, want %s", s.what, s.got, s.want)
		}
	}
	// Nothing is lost by a refresh that cannot be granted.
	if _, err := m.assign("a", nil, nil, parse("0.0.0.0/0")); !fault.Is(err, fault.Exhausted) {
		t.Errorf("everything excluded: %v", err)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		if len(m.pools[0].owned) != len(m.pools[0].used) {
			t.Errorf("%d owners of %d pairs", len(m.pools[0].owned), len(m.pools[0].used))
		}
		m.free(id)
		m.free(id)
	}
	if n := len(m.pools[0].used); n != 0 {
		t.Errorf("%d pairs are left", n)
	}
}

func TestBadPrefixes(t *testing.T) {
	t.Parallel()
	for name, list := range map[string][]netip.Prefix{
		"no room": parse("10.0.0.1/32"), "no room v6": parse("::1/128"), "overlap": parse("10.0.0.0/8", "10.1.0.0/16"), "zero": {{}},
	} {
		if _, err := newIPAM(list); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzAssign(f *testing.F) {
	f.Add("10.0.0.0/29", "10.0.0.2/31", "10.0.0.5/32", "10.0.0.4/32")
	f.Add("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0/112", "::/1", "::1/128", "::/128")
	f.Fuzz(func(t *testing.T, prefix, excluded, src, dst string) {
		p, err := netip.ParsePrefix(prefix)
		if err != nil {
			return
		}
		m, err := newIPAM([]netip.Prefix{p})
		if err != nil {
			return
		}
		out := func(s string) []netip.Prefix {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return nil
			}
			return []netip.Prefix{p}
		}
		given := map[netip.Addr]bool{}
		for _, id := range []string{"a", "b", "c"} {
			pairs, err := m.assign(id, out(src), out(dst), out(excluded))
			if err != nil {
				continue
			}
			for _, a := range []netip.Addr{pairs[0].Dst, pairs[0].Src} {
				e := out(excluded)
				if given[a] || !p.Masked().Contains(a) || len(e) > 0 && e[0].Contains(a) {
					t.Fatalf("%s was given to %s out of %s without %s", a, id, prefix, excluded)
				}
				given[a] = true
			}
		}
	})
}
