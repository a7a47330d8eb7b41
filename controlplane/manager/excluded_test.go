package manager_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/manager"
	"highwire/vppapi/fault"
)

// Nobody gets an address that the file or the client excludes; a change of the file moves a connection at its next refresh.
func TestExcludedPrefixes(t *testing.T) {
	m := newMesh(t)
	path := filepath.Join(m.dir, "excluded_prefixes.yaml")
	excluded, err := manager.OpenExcluded(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run(t, excluded.Run))
	write := func(text string, count int) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		for begun := time.Now(); len(excluded.Prefixes()) != count; time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > patience {
				t.Fatalf("prefixes are %v, want %d", excluded.Prefixes(), count)
			}
		}
	}
	a := m.agent(m.source("agent"), newPlane(), func(c *manager.Config) { c.Excluded = excluded.Prefixes })
	m.endpoint(a, m.source("nse"), endpoint.Config{Name: "nse-a", Services: []string{"web"}, Pools: pools("10.7.0.0/24")})
	c := m.caller(a, m.source("nsc"))

	write("prefixes:\n- 10.7.0.0/25\n", 1)
	r := c.request("nsc-0", "web", "nsm-1")
	r.Connection.Context = &connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{ExcludedPrefixes: []string{"10.7.0.128/26"}}}
	answer := c.must(r)
	within := func(want string) {
		t.Helper()
		ip := answer.Context.IpContext
		for _, s := range slices.Concat(ip.SrcIpAddrs, ip.DstIpAddrs) {
			if p := netip.MustParsePrefix(s); !netip.MustParsePrefix(want).Contains(p.Addr()) {
				t.Errorf("address %s, want one in %s", s, want)
			}
		}
		if len(ip.SrcIpAddrs) != 1 || !slices.Equal(ip.ExcludedPrefixes, []string{"10.7.0.128/26"}) {
			t.Errorf("the answer has %v", ip)
		}
	}
	within("10.7.0.192/26")
	write("prefixes: ['10.7.0.192/26', 10.8.0.0/16]", 2)
	answer = c.must(c.again(answer))
	within("10.7.0.0/25")
}

func TestExcludedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "excluded.yaml")
	for text, want := range map[string]string{
		"prefixes: [10.0.0.0/33]": "prefixes[0]",
		"prefixes: ten":           "excluded prefixes",
		"prefixes:\n" + strings.Repeat("- 10.0.0.0/8\n", 513): "the limit is 512",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := manager.OpenExcluded(path, slog.New(slog.DiscardHandler)); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v", text, err)
		}
	}
	if err := os.WriteFile(path, []byte("prefixes: [10.1.2.3/8, 'fd00::1/64']"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := manager.OpenExcluded(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if got := fmt.Sprint(e.Prefixes()); got != "[10.0.0.0/8 fd00::/64]" {
		t.Errorf("prefixes are %s", got)
	}
}
