package endpoint

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ipamOf(t *testing.T, text ...string) *ipam {
	t.Helper()
	pools, err := ParsePools(strings.Join(text, ","))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newIPAM(pools, nil)
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
		"several prefixes":     {[]string{"[10.0.0.0/31", "10.1.0.0/31]"}, nil, "10.0.0.0-10.0.0.1, 10.1.0.0-10.1.0.1, full"},
		"one of them excluded": {[]string{"[10.0.0.0/29, 10.1.0.0/30]", "fd00::/64"}, []string{"10.0.0.0/8", "fd00::/126"}, "full, full, full"},
		"the other excluded":   {[]string{"[10.0.0.0/29, 10.1.0.0/30]", "fd00::/64"}, []string{"10.0.0.0/16", "fd00::/126"}, "10.1.0.0-10.1.0.1 fd00::4-fd00::5, 10.1.0.2-10.1.0.3 fd00::6-fd00::7, full"},
		"end of v6":            {[]string{"ffff::/16"}, []string{"ffff::/16"}, "full, full, full"},
	}
	for name, test := range tests {
		m := ipamOf(t, test.pools...)
		var got []string
		for _, id := range []string{"a", "b", "c"} {
			pairs, err := m.assign(id, "client of "+id, nil, nil, parse(test.excluded...))
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
		pairs, err := m.assign(id, "client of "+id, parse(src), parse(dst), parse(excluded...))
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
	if _, err := m.assign("a", "client of a", nil, nil, parse("0.0.0.0/0")); !fault.Is(err, fault.Exhausted) {
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

func TestParsePools(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"10.0.0.0/24":                         "[10.0.0.0/24]",
		"10.0.0.0/24, fd00::/64":              "[10.0.0.0/24] [fd00::/64]",
		"[10.0.0.0/24,10.1.0.0/24],fd00::/64": "[10.0.0.0/24 10.1.0.0/24] [fd00::/64]",
		"[ 10.0.0.0/24 ]":                     "[10.0.0.0/24]",
		"":                                    "",
		"10.0.0.0":                            "",
		"[10.0.0.0/24":                        "",
		"10.0.0.0/24]":                        "",
		"[10.0.0.0/24,[10.1.0.0/24]]":         "",
		"[10.0.0.0/24,fd00::/64]":             "",
		"10.0.0.1/32":                         "",
		"::1/128":                             "",
	} {
		pools, err := ParsePools(text)
		var list []string
		for _, p := range pools {
			list = append(list, fmt.Sprint([]netip.Prefix(p)))
		}
		if got := strings.Join(list, " "); got != want || (err != nil) != (want == "") || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for name, pools := range map[string][]Pool{"overlap": {parse("10.0.0.0/8"), parse("10.1.0.0/16")}, "overlap in one": {parse("10.0.0.0/8", "10.1.0.0/16")}, "zero": {{{}}}} {
		if _, err := newIPAM(pools, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParsePools(f *testing.F) {
	f.Add("[10.0.0.0/24,10.1.0.0/24],fd00::/64")
	f.Add("[10.0.0.0/24],]")
	f.Fuzz(func(t *testing.T, text string) {
		pools, err := ParsePools(text)
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Fatalf("%q: %v", text, err)
		}
		for _, p := range pools {
			if len(p) == 0 {
				t.Fatalf("%q has an empty pool", text)
			}
		}
	})
}

// TestStable: who comes back gets what it had, also from an endpoint that was restarted, as long as others find room elsewhere.
func TestStable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "leases")
	pools, err := ParsePools("10.0.0.0/29,fd00::/64")
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*ipam, *leaseFile) {
		t.Helper()
		l, err := openLeases(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := newIPAM(pools, l)
		if err != nil {
			t.Fatal(err)
		}
		return m, l
	}
	expect := func(m *ipam, id, client, want string) {
		t.Helper()
		pairs, err := m.assign(id, client, nil, nil, nil)
		got := show(pairs)
		if fault.Is(err, fault.Exhausted) {
			got = "full"
		}
		if got != want {
			t.Errorf("%s for %s: %s (%v), want %s", id, client, got, err, want)
		}
	}
	first, second := "10.0.0.2-10.0.0.3 fd00::2-fd00::3", "10.0.0.4-10.0.0.5 fd00::4-fd00::5"
	m, l := open()
	expect(m, "1", "a", first)
	m.free("1")
	expect(m, "2", "b", second)
	expect(m, "3", "a", first)
	m.free("2")
	m.free("3")
	l.Close()

	m, l = open()
	expect(m, "4", "b", second)
	expect(m, "5", "a", first)
	m.free("5")
	// There is no other pair for c; then it is a that has to find one.
	expect(m, "6", "c", "10.0.0.2-10.0.0.3 fd00::6-fd00::7")
	expect(m, "7", "a", "full")
	l.Close()

	m, l = open()
	expect(m, "8", "c", "10.0.0.2-10.0.0.3 fd00::6-fd00::7")
	expect(m, "9", "b", second)
	l.Close()

	// An endpoint with other pools finds nothing in the file that suits it.
	if pools, err = ParsePools("10.9.0.0/24"); err != nil {
		t.Fatal(err)
	}
	m, l = open()
	expect(m, "10", "a", "10.9.0.2-10.9.0.3")
	l.Close()
}

func TestLeasesProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := openLeases(filepath.Join(dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := openLeases(filepath.Join(dir, "leases")); err == nil || !strings.Contains(err.Error(), "another endpoint") {
		t.Errorf("in use: %v", err)
	}
	if _, err := openLeases(filepath.Join(dir, "none", "leases")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	// What cannot be read is as if it were not there.
	err = l.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(leaseBucket).Put([]byte("a"), []byte("10.0.0.2 x")) })
	if err != nil {
		t.Fatal(err)
	}
	if known, err := l.load(); err != nil || len(known) != 0 {
		t.Errorf("loaded %v, %v", known, err)
	}
}

// TestChurn holds the pools to a naive model while clients come, go, come back and wish: whoever gets a pair is alone on it and may
// have it, a pool is full only when the model finds no pair either, and nothing is left when all have gone.
func TestChurn(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	prefixes := parse("10.0.0.0/27", "10.0.1.0/28")
	m := ipamOf(t, "[10.0.0.0/27,10.0.1.0/28]")
	// Every pair there is.
	var all []netip.Addr
	for _, p := range prefixes {
		for a := p.Addr().Next().Next(); p.Contains(a.Next().Next()); a = a.Next().Next() {
			all = append(all, a)
		}
	}
	given := map[netip.Addr]string{}
	free := func(excluded []netip.Prefix) (n int) {
		for _, a := range all {
			out := slices.ContainsFunc(excluded, func(e netip.Prefix) bool { return e.Contains(a) || e.Contains(a.Next()) })
			if given[a] == "" && !out {
				n++
			}
		}
		return n
	}
	full := 0
	for step := range 20000 {
		id := fmt.Sprint(random.IntN(40))
		var had netip.Addr
		for a, owner := range given {
			if owner == id {
				had = a
			}
		}
		if random.IntN(3) == 0 {
			m.free(id)
			delete(given, had)
			continue
		}
		var excluded, src, dst []netip.Prefix
		if random.IntN(3) == 0 {
			a := all[random.IntN(len(all))]
			excluded = append(excluded, netip.PrefixFrom(a, 26+random.IntN(7)).Masked())
		}
		if random.IntN(2) == 0 {
			a := all[random.IntN(len(all))]
			src, dst = append(src, netip.PrefixFrom(a.Next(), 32)), append(dst, netip.PrefixFrom(a, 32))
		}
		delete(given, had)
		pairs, err := m.assign(id, fmt.Sprint("client ", random.IntN(100)), src, dst, excluded)
		if err != nil {
			if n := free(excluded); n != 0 || !fault.Is(err, fault.Exhausted) {
				t.Fatalf("step %d: %v, but %d pairs are free", step, err, n)
			}
			if had.IsValid() {
				given[had] = id
			}
			full++
			continue
		}
		got := pairs[0].Dst
		bad := slices.ContainsFunc(excluded, func(e netip.Prefix) bool { return e.Contains(got) || e.Contains(got.Next()) })
		if bad || given[got] != "" || !slices.Contains(all, got) || pairs[0].Src != got.Next() {
			t.Fatalf("step %d: %s got %v, which %q has; without %v", step, id, pairs, given[got], excluded)
		}
		given[got] = id
	}
	if full == 0 {
		t.Error("the pool was never full")
	}
	p := m.pools[0]
	if len(p.used) != len(given) || len(p.owned) != len(given) || len(p.promised) > len(m.had) || m.recent.Len() != len(m.had) {
		t.Errorf("%d pairs used, %d owned, %d given; %d promised, %d remembered, %d in order", len(p.used), len(p.owned), len(given), len(p.promised), len(m.had), m.recent.Len())
	}
	for i := range 40 {
		m.free(fmt.Sprint(i))
	}
	if len(p.used)+len(p.owned) != 0 {
		t.Errorf("%d pairs are left", len(p.used))
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
		m, err := newIPAM([]Pool{{p}}, nil)
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
			pairs, err := m.assign(id, id, out(src), out(dst), out(excluded))
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
