package tunnel

import (
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"testing"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

var (
	v4 = netip.MustParseAddr("192.0.2.1")
	v6 = netip.MustParseAddr("2001:db8::1")
	on = Fixed{{v4, 1500}, {v6, 1400}}
)

func TestLocal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		on   Fixed
		far  string
		want netip.Addr
	}{
		{on, "", v4},
		{on, "198.51.100.1", v4},
		{on, "2001:db8::9", v6},
		{on[1:], "", v6},
		{on[1:], "198.51.100.1", netip.Addr{}},
		{nil, "", netip.Addr{}},
	} {
		far, _ := netip.ParseAddr(c.far)
		l, err := c.on.Local(far)
		if l.Addr != c.want || (err == nil) != c.want.IsValid() || err != nil && !fault.Is(err, fault.Unavailable) {
			t.Errorf("from %v to %q: %v, %v", c.on, c.far, l, err)
		}
	}
	if l, err := Towards(on, "2001:db8::1", netip.Addr{}); err != nil || l != on[1] {
		t.Errorf("what was said before does not count: %v, %v", l, err)
	}
	if l, err := Towards(on, "192.0.2.77", v4); err != nil || l != on[0] {
		t.Errorf("an address that is ours no more: %v, %v", l, err)
	}
}

// TestSides: which half of the parameters is ours.
func TestSides(t *testing.T) {
	t.Parallel()
	params := map[string]string{mechanisms.ParamSrcIP: "192.0.2.1", mechanisms.ParamDstIP: "192.0.2.2"}
	for side, want := range map[mechanisms.Side]string{mechanisms.Endpoint: "192.0.2.1", mechanisms.Client: "192.0.2.2"} {
		local, remote, err := Addresses(mechanisms.End{Side: side, Params: params})
		if err != nil || local.String() != want || remote == local {
			t.Errorf("%s: %v, %v, %v", side, local, remote, err)
		}
	}
	for _, far := range []string{"", "192.0.2.1", "2001:db8::1", "x", "::ffff:192.0.2.2", "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "127.0.0.1", "::1", "255.255.255.255", "192.0.2.2/24"} {
		_, _, err := Addresses(mechanisms.End{Side: mechanisms.Endpoint, Params: map[string]string{mechanisms.ParamSrcIP: "192.0.2.1", mechanisms.ParamDstIP: far}})
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("far side %q: %v", far, err)
		}
	}
}

func TestMTU(t *testing.T) {
	t.Parallel()
	o := Overhead{54, 74}
	for _, c := range []struct {
		local Local
		said  string
		want  uint32
		kind  fault.Kind
	}{
		{Local{v4, 1500}, "", 1446, 0},
		{Local{v6, 1500}, "", 1426, 0},
		{Local{v4, 9000}, "0", 8946, 0},
		{Local{v4, 1500}, "1400", 1400, 0},
		{Local{v4, 1500}, "9000", 1446, 0},
		{Local{v4, 1500}, "1279", 0, fault.Invalid},
		{Local{v4, 1500}, "-1", 0, fault.Invalid},
		{Local{v4, 1500}, "70000", 0, fault.Invalid},
		{Local{v4, 1333}, "", 0, fault.Unavailable},
		{Local{v4, 1334}, "", 1280, 0},
	} {
		got, err := o.MTU(c.local, map[string]string{mechanisms.ParamMTU: c.said})
		if got != c.want || (err != nil) != (c.want == 0) || err != nil && !fault.Is(err, c.kind) {
			t.Errorf("%v, far side says %q: %d, %v", c.local, c.said, got, err)
		}
	}
	for _, c := range [][3]uint32{{0, 0, 0}, {1400, 0, 1400}, {0, 1446, 1446}, {1400, 1446, 1400}, {1446, 1400, 1400}} {
		e := mechanisms.End{MTU: c[0], Params: map[string]string{mechanisms.ParamMTU: strconv.Itoa(int(c[1]))}}
		if got, err := InnerMTU(e); err != nil || got != c[2] {
			t.Errorf("%v: %d, %v", c, got, err)
		}
	}
}

// TestClaims: a number has one owner at a time, and is free again when nobody wants it.
func TestClaims(t *testing.T) {
	t.Parallel()
	c := Claims[uint16]{What: "port"}
	if err := c.Hold("a", 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Hold("a", 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Hold("b", 1); !fault.Is(err, fault.Conflict) {
		t.Errorf("held twice: %v", err)
	}
	c.Drop("b", 1)
	c.Drop("a", 1)
	if c.Take("b", 1) {
		t.Error("one use was left, and another end got it")
	}
	c.Drop("a", 1)
	if !c.Take("b", 1) {
		t.Error("nobody wants it, and it is not free")
	}
	right := func(n uint16) bool { return n != 0 }
	if n, err := c.Choose("b", 0, right, func() uint16 { return 9 }); err != nil || n != 1 {
		t.Errorf("another one than the last time: %d, %v", n, err)
	}
	if n, err := c.Choose("b", 7, right, func() uint16 { return 9 }); err != nil || n != 7 {
		t.Errorf("not what it wants: %d, %v", n, err)
	}
	if n, err := c.Choose("c", 7, right, func() uint16 { return 1 }); !fault.Is(err, fault.Exhausted) {
		t.Errorf("nothing is free: %d, %v", n, err)
	}
}

// TestClaimsAtOnce: many ends choose at once, and no two get the same.
func TestClaimsAtOnce(t *testing.T) {
	t.Parallel()
	c := Claims[uint16]{What: "port"}
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := make(map[uint16]string)
	for i := range 500 {
		wg.Go(func() {
			end, next := fmt.Sprint("end", i), uint16(0)
			n, err := c.Choose(end, 0, func(n uint16) bool { return n != 0 }, func() uint16 { next++; return next*8 + uint16(i%8) })
			mu.Lock()
			defer mu.Unlock()
			if other, taken := owner[n]; err == nil && taken {
				t.Errorf("%s and %s both have %d", end, other, n)
			} else if err == nil {
				owner[n] = end
			}
		})
	}
	wg.Wait()
	if len(owner) < 400 {
		t.Errorf("only %d got one", len(owner))
	}
}

func FuzzParameters(f *testing.F) {
	f.Add("192.0.2.1", "4789", "1400")
	f.Add("2001:db8::1", "0", "")
	f.Fuzz(func(t *testing.T, ip, port, mtu string) {
		params := map[string]string{mechanisms.ParamSrcIP: ip, mechanisms.ParamSrcPort: port, mechanisms.ParamMTU: mtu}
		if a, err := Addr(params, mechanisms.ParamSrcIP); (err == nil) != a.IsValid() || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("address %q: %v, %v", ip, a, err)
		}
		if p, err := Port(params, mechanisms.ParamSrcPort, 1); err == nil && p == 0 || err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("port %q: %v, %v", port, p, err)
		}
		if m, err := (Overhead{54, 74}).MTU(Local{v4, 1500}, params); err == nil && (m < minMTU || m > 1446) {
			t.Errorf("MTU %q: %d", mtu, m)
		}
	})
}
