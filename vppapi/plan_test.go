package vppapi

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// local is an object of the kernel for plans; it does nothing.
type local struct {
	key  Key
	uses string // names of Keys, so that the value stays comparable
	text string
}

func (l local) Key() Key                              { return l.key }
func (l local) String() string                        { return l.text }
func (l local) Realize(context.Context) (bool, error) { return false, nil }
func (l local) Release(context.Context) error         { return nil }
func (l local) Uses() []Key {
	switch l.uses {
	case "link":
		return []Key{{KindLink, l.key.Name}}
	case "interface":
		return []Key{Interface(l.key.Name)}
	case "both":
		return []Key{{KindLink, l.key.Name}, Interface(l.key.Name)}
	}
	return nil
}

func link(end, text string) Object { return local{Key{KindLink, end}, "", text} }

// vethEnd is all of an end over a veth pair.
func vethEnd(end string, mac byte) []Object {
	return []Object{
		link(end, "veth"), AFPacket{Name: end, Host: "host-" + end, MAC: HardwareAddr{2, 0, 0, 0, 0, mac}}, Tag{end},
		local{Key{KindNetns, end}, "link", "addresses"}, Up{end}, local{Key{KindCarrier, end}, "both", "up"},
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// TestDiff holds plans to golden files; run with -update to write them.
func TestDiff(t *testing.T) {
	t.Parallel()
	const a, b, c = "w:client", "w:endpoint", "x:client"
	both := func(more ...Object) []Object { return append(append(vethEnd(a, 1), vethEnd(b, 2)...), more...) }
	l2 := []Object{L2XConnect{a, b}, L2XConnect{b, a}}
	l3 := []Object{
		L3XConnect{a, b, addr("10.0.0.2")}, L3XConnect{b, a, addr("10.0.0.1")}, L3XConnect{a, b, addr("fd00::2")},
		Neighbor{a, addr("10.0.0.1"), HardwareAddr{2, 0, 0, 0, 0, 1}}, Neighbor{b, addr("10.0.0.2"), HardwareAddr{2, 0, 0, 0, 0, 2}},
	}
	defaults := []Object{MTU{a, 9000}, RxMode{a, Interrupt}, MTU{b, 9000}}
	replace := func(list []Object, with Object) []Object {
		out := make([]Object, len(list))
		for i, o := range list {
			if out[i] = o; o.Key() == with.Key() {
				out[i] = with
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		want, have []Object
	}{
		"nothing":     {nil, nil},
		"create":      {want: both(append(l2, MTU{a, 1500})...)},
		"same":        {both(l2...), both(l2...)},
		"delete":      {have: both(l2...)},
		"delete l3":   {have: both(l3...)}, // l3xc and neighbours outlive their interface: removed, and first
		"delete one":  {both(l2...), append(both(l2...), vethEnd(c, 3)...)},
		"replace":     {replace(both(l2...), AFPacket{Name: a, Host: "host-" + a, MAC: HardwareAddr{2, 9}, Offload: true}), both(l2...)},
		"replace l3":  {replace(both(l3...), link(a, "wider veth")), both(l3...)},
		"other hop":   {replace(both(l3...), L3XConnect{a, b, addr("10.0.0.9")}), both(l3...)},
		"other MTU":   {both(MTU{a, 1400}), both(MTU{a, 9000})},
		"other route": {replace(both(), local{Key{KindNetns, a}, "link", "other addresses"}), both()},
		"defaults":    {both(), both(defaults...)},
		"settings go": {nil, both(defaults...)},
		"stray":       {both(l2...), both(append(l2, Neighbor{a, addr("10.0.0.7"), HardwareAddr{2, 7}}, L3XConnect{a, b, addr("10.0.0.7")})...)},
		"partly":      {both(l2...), vethEnd(a, 1)},
		"foreign":     {nil, []Object{foreign{"y:client", "rdma"}, Tag{"y:client"}}},
		"tap for tap": {
			[]Object{Tap{Name: a, Host: "tap", MTU: 1500}, Tag{a}, local{Key{KindNetns, a}, "interface", "addresses"}},
			[]Object{Tap{Name: a, Host: "tap", MTU: 1500, L3: true}, Tag{a}, local{Key{KindNetns, a}, "interface", "addresses"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Diff(objects(c.want...), realized(c.have...)).String()
			file := filepath.Join("testdata", "diff", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What a dump shows only in part serves as what is wanted, and no more than that.
func TestAdopt(t *testing.T) {
	t.Parallel()
	want := AFPacket{Name: "w:client", Host: "h", MAC: HardwareAddr{2, 1}, Offload: true}
	tap := Tap{Name: "w:endpoint", Host: "hw1", MAC: HardwareAddr{2, 1}, HostMAC: HardwareAddr{2, 2}, MTU: 1400}
	for name, c := range map[string]struct {
		want, found Object
		adopted     bool
	}{
		"af_packet":         {want, AFPacket{Name: "w:client", Host: "h", MAC: HardwareAddr{2, 1}}, true},
		"other host":        {want, AFPacket{Name: "w:client", Host: "g", MAC: HardwareAddr{2, 1}, Offload: true}, false},
		"tap":               {tap, Tap{Name: "w:endpoint", Host: "renamed"}, true},
		"tun is no tap":     {tap, Tap{Name: "w:endpoint", Host: "hw1", L3: true}, false},
		"offload is missed": {tap, Tap{Name: "w:endpoint", Host: "hw1", Offload: true}, false},
		"other sort":        {want, foreign{"w:client", "rdma"}, false},
		"setting":           {MTU{"w:client", 1500}, MTU{"w:client", 9000}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			have := realized(c.found)
			have.Adopt(objects(c.want), nil)
			e := have[c.want.Key()]
			if adopted := e.Object == c.want; adopted != c.adopted {
				t.Errorf("adopted %v: %v", adopted, e.Object)
			}
			if c.want.Key().Kind == KindInterface && e.Index != 1 {
				t.Errorf("index %d, want it kept", e.Index)
			}
			if p := Diff(objects(c.want), have); p.Empty() != c.adopted {
				t.Errorf("plan:\n%s", p)
			}
		})
	}
}
