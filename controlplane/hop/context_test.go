package hop

import (
	"net/netip"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// §1.3: next hops, on-link routes, and the routes that go without saying.
func TestRoutes(t *testing.T) {
	t.Parallel()
	hop := netip.MustParseAddr
	tests := map[string]struct {
		src, dst []string
		routes   []*connectioncontext.Route
		want     []mechanisms.Route
	}{
		"host addresses": {[]string{"10.0.0.2/32"}, []string{"10.0.0.1/32"}, nil,
			[]mechanisms.Route{{Prefix: prefix("10.0.0.1/32")}}},
		"covered": {[]string{"10.0.0.2/24"}, []string{"10.0.0.1/24"}, nil, nil},
		"route to the other side is on-link, once": {[]string{"10.0.0.2/32"}, []string{"10.0.0.1/32"},
			[]*connectioncontext.Route{{Prefix: "10.0.0.1/32"}}, []mechanisms.Route{{Prefix: prefix("10.0.0.1/32")}}},
		"through the other side": {[]string{"10.0.0.2/32"}, []string{"10.0.0.1/32"},
			[]*connectioncontext.Route{{Prefix: "192.168.7.7/16"}},
			[]mechanisms.Route{{Prefix: prefix("10.0.0.1/32")}, {Prefix: prefix("192.168.0.0/16"), Via: hop("10.0.0.1")}}},
		"through its own family": {[]string{"10.0.0.2/32", "fd00::2/128"}, []string{"10.0.0.1/32", "fd00::1/128"},
			[]*connectioncontext.Route{{Prefix: "::/0"}},
			[]mechanisms.Route{{Prefix: prefix("10.0.0.1/32")}, {Prefix: prefix("fd00::1/128")}, {Prefix: prefix("::/0"), Via: hop("fd00::1")}}},
		"its own next hop": {[]string{"10.0.0.2/32"}, []string{"10.0.0.1/32"},
			[]*connectioncontext.Route{{Prefix: "0.0.0.0/0", NextHop: "10.0.0.9"}},
			[]mechanisms.Route{{Prefix: prefix("10.0.0.1/32")}, {Prefix: prefix("0.0.0.0/0"), Via: hop("10.0.0.9")}}},
		"nobody of the family": {nil, nil, []*connectioncontext.Route{{Prefix: "10.0.0.0/8"}},
			[]mechanisms.Route{{Prefix: prefix("10.0.0.0/8")}}},
	}
	for name, test := range tests {
		ip := &connectioncontext.IPContext{SrcIpAddrs: test.src, DstIpAddrs: test.dst, SrcRoutes: test.routes}
		c, err := ParseContext(&connectioncontext.ConnectionContext{IpContext: ip})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := c.ClientEnd(mechanisms.End{}).Routes; !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: client has %v, want %v", name, got, test.want)
		}
		// The endpoint's side is the mirror image.
		mirror, err := ParseContext(&connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{
			SrcIpAddrs: test.dst, DstIpAddrs: test.src, DstRoutes: test.routes,
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := mirror.EndpointEnd(mechanisms.End{}).Routes; !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: endpoint has %v, want %v", name, got, test.want)
		}
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	c, err := ParseContext(&connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{
		SrcIpAddrs: []string{"10.0.0.2/32"}, DstIpAddrs: []string{"10.0.0.1/32", "fd00::1/128"},
		Policies: []*connectioncontext.PolicyRoute{{From: "172.16.2.9/24", Proto: "6", DstPort: "6666-6667", SrcPort: "5"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := mechanisms.PolicyRoute{From: prefix("172.16.2.0/24"), Proto: 6, DstPort: [2]uint16{6666, 6667}, SrcPort: [2]uint16{5, 5},
		Routes: []mechanisms.Route{{Prefix: prefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1")}}}
	if got := c.ClientEnd(mechanisms.End{}).Policies; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("policies %v, want %v", got, want)
	}
	if got := c.EndpointEnd(mechanisms.End{}).Policies; len(got) != 0 {
		t.Errorf("the endpoint has %v", got)
	}
}

// FuzzCheckRequest: whatever comes in a message is refused as invalid or can be built from.
func FuzzCheckRequest(f *testing.F) {
	good := &networkservice.NetworkServiceRequest{
		Connection: &connection.Connection{Id: "a", NetworkService: "web", Path: pathOf(0, "nsc:a"), Mechanism: &connection.Mechanism{Type: "KERNEL"},
			Context: &connectioncontext.ConnectionContext{
				IpContext: &connectioncontext.IPContext{
					SrcIpAddrs: []string{"10.0.0.2/32"}, SrcRoutes: []*connectioncontext.Route{{Prefix: "0.0.0.0/0", NextHop: "10.0.0.1"}},
					IpNeighbors: []*connectioncontext.IpNeighbor{{Ip: "10.0.0.1", HardwareAddress: "02:00:00:00:00:01"}},
					Policies:    []*connectioncontext.PolicyRoute{{Proto: "17", DstPort: "1-2", Routes: []*connectioncontext.Route{{Prefix: "::/0"}}}},
				},
				EthernetContext: &connectioncontext.EthernetContext{SrcMac: "02:00:00:00:00:02"},
			}},
		MechanismPreferences: []*connection.Mechanism{{Cls: "LOCAL", Type: "KERNEL", Parameters: map[string]string{"inodeURL": "inode://4/5", "name": "nsm-1"}}},
	}
	data, err := proto.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	if err := CheckRequest(good); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &networkservice.NetworkServiceRequest{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		if err := CheckRequest(r); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("kind %s: %v", fault.KindOf(err), err)
			}
			return
		}
		c, err := ParseContext(r.Connection.Context)
		if err != nil {
			t.Fatalf("checked, but: %v", err)
		}
		for _, route := range append(c.ClientEnd(mechanisms.End{}).Routes, c.EndpointEnd(mechanisms.End{}).Routes...) {
			if route.Via.IsValid() && route.Via.Is4() != route.Prefix.Addr().Is4() {
				t.Fatalf("route %v", route)
			}
		}
		if _, err := Locate(r.Connection, "me", func() string { return "fresh" }); err != nil && !fault.Is(err, fault.Invalid) {
			t.Fatal(err)
		}
	})
}
