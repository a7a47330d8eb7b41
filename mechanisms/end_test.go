package mechanisms

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"highwire/vppapi/fault"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// full is an End with something in every field.
func full() End {
	route := Route{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParseAddr("10.0.0.2")}
	return End{
		VWire: "w", Side: Client, Type: Kernel, Params: map[string]string{ParamName: "nsm-1", ParamInode: "inode://4/5"},
		Payload: IP, MTU: 1400, MAC: "02:00:00:00:00:01", Device: "hw1", Offload: true,
		Addresses: prefixes("10.0.0.1/32", "fd00::1/128"), Remote: prefixes("10.0.0.2/32"),
		Routes:    []Route{route, {Prefix: netip.MustParsePrefix("::/0")}},
		Neighbors: []Neighbor{{netip.MustParseAddr("10.0.0.2"), "02:00:00:00:00:02"}},
		Policies: []PolicyRoute{{
			From: netip.MustParsePrefix("10.0.0.1/32"), Proto: 6, DstPort: [2]uint16{80, 90}, SrcPort: [2]uint16{1, 2}, Routes: []Route{route},
		}},
	}
}

// otherValues calls try with v changed in one field after the other, by its name; a new field is met without being named.
func otherValues(t *testing.T, v reflect.Value, try func(field string)) {
	t.Helper()
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		if f.IsZero() {
			t.Errorf("the sample has nothing in %s", name)
			continue
		}
		old := reflect.ValueOf(f.Interface())
		f.SetZero()
		try(name + " empty")
		if f.Kind() == reflect.Slice {
			f.Set(old.Slice(0, old.Len()-1))
			try(name + " shorter")
			f.Set(reflect.AppendSlice(old, old))
			try(name + " longer")
		}
		f.Set(old)
	}
}

// TestEqual: a difference in any field is a difference.
func TestEqual(t *testing.T) {
	t.Parallel()
	e := full()
	if !e.Equal(full()) || !e.Policies[0].Equal(full().Policies[0]) {
		t.Fatal("an End is not equal to itself")
	}
	otherValues(t, reflect.ValueOf(&e).Elem(), func(field string) {
		if e.Equal(full()) || full().Equal(e) {
			t.Errorf("%s makes no difference", field)
		}
	})
	p := full().Policies[0]
	otherValues(t, reflect.ValueOf(&p).Elem(), func(field string) {
		if with := (End{Policies: []PolicyRoute{p}}); with.Equal(End{Policies: full().Policies}) {
			t.Errorf("%s of a policy makes no difference", field)
		}
	})
	for name, change := range map[string]func(*End){
		"parameter":  func(e *End) { e.Params[ParamName] = "nsm-2" },
		"one more":   func(e *End) { e.Params[ParamSocket] = "@x" },
		"order":      func(e *End) { e.Addresses[0], e.Addresses[1] = e.Addresses[1], e.Addresses[0] },
		"next hop":   func(e *End) { e.Routes[0].Via = netip.Addr{} },
		"other MAC":  func(e *End) { e.Neighbors[0].MAC = "02:00:00:00:00:03" },
		"deep route": func(e *End) { e.Policies[0].Routes[0].Via = netip.Addr{} },
	} {
		e := full()
		if change(&e); e.Equal(full()) {
			t.Errorf("%s makes no difference", name)
		}
	}
	if !(End{}).Equal(End{Params: map[string]string{}, Addresses: prefixes(), Routes: []Route{}}) {
		t.Error("none and empty make a difference")
	}
}

// TestJSON: the journal gives back what it was given.
func TestJSON(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]End{"full": full(), "empty": {}, "zero prefixes": {Addresses: make([]netip.Prefix, 1), Routes: make([]Route, 1), Policies: make([]PolicyRoute, 1)}} {
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var back End
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if !back.Equal(e) {
			t.Errorf("%s: %s came back as %+v", name, data, back)
		}
	}
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParseAddr("169.254.254.1"), netip.MustParseAddr("fe80::1:1")
	for name, c := range map[string]struct {
		own, remote  []netip.Prefix
		is4, is6     bool
		next4, next6 netip.Addr
	}{
		"none":        {nil, nil, true, true, v4, v6},
		"ip4":         {prefixes("10.0.0.1/32"), prefixes("10.0.0.2/32"), true, false, netip.MustParseAddr("10.0.0.1"), v6},
		"ip6":         {prefixes("fd00::1/128"), prefixes("fd00::2/128"), false, true, v4, netip.MustParseAddr("fd00::1")},
		"dual":        {prefixes("fd00::1/64", "10.0.0.1/24"), nil, true, true, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		"remote only": {nil, prefixes("10.0.0.2/32"), true, false, v4, v6},
		"across":      {prefixes("10.0.0.1/32"), prefixes("fd00::2/128"), true, true, netip.MustParseAddr("10.0.0.1"), v6},
		"first":       {prefixes("10.0.0.1/24", "10.0.0.9/24"), nil, true, false, netip.MustParseAddr("10.0.0.1"), v6},
	} {
		e := End{Addresses: c.own, Remote: c.remote}
		if is4, is6 := e.Families(); is4 != c.is4 || is6 != c.is6 {
			t.Errorf("%s: families %v, %v", name, is4, is6)
		}
		if n4, n6 := e.NextHop(false), e.NextHop(true); n4 != c.next4 || n6 != c.next6 {
			t.Errorf("%s: next hops %v, %v", name, n4, n6)
		}
	}
}

func TestSides(t *testing.T) {
	t.Parallel()
	if Client.Other() != Endpoint || Endpoint.Other() != Client {
		t.Error("a vWire has two sides")
	}
	if n := (End{VWire: "w", Side: Endpoint}).Name(); n != "w:endpoint" {
		t.Error(n)
	}
}

func FuzzParseInode(f *testing.F) {
	for _, s := range []string{
		"inode://4/4026531840", "inode://0/0", "inode://18446744073709551615/18446744073709551615", "inode://18446744073709551616/1", "", "inode://", "inode://4",
		"inode://4/", "inode:///4", "inode://04/4", "inode://+4/4", "inode://4/4/", "inode://4/4 ", " inode://4/4", "inode://4/4x", "INODE://4/4", "inode://-1/4", "inode://0x4/4", "inode://4\n/4", "file:///proc/self/ns/net",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseInode(s)
		switch {
		case err == nil && i.String() != s:
			t.Errorf("%q is read as %s", s, i)
		case err != nil && (!fault.Is(err, fault.Invalid) || i != Inode{}):
			t.Errorf("%q: %v, %v", s, i, err)
		case err == nil && strings.Trim(s, "inode:/0123456789") != "":
			t.Errorf("%q is accepted", s)
		}
	})
}
