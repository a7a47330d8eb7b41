package mechanisms

import (
	"slices"
	"strings"
	"testing"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// sort is a mechanism that only says what it is.
type sort struct {
	typ      string
	class    Class
	payloads []Payload
}

func (s sort) Type() string                         { return s.typ }
func (s sort) Class() Class                         { return s.class }
func (s sort) Payloads() []Payload                  { return s.payloads }
func (s sort) Objects(End) ([]vppapi.Object, error) { return nil, nil }

// TestSet: what is offered, and in which order.
func TestSet(t *testing.T) {
	t.Parallel()
	both := []Payload{Ethernet, IP}
	set := Set{sort{Memif, Local, both}, sort{Kernel, Local, both}, sort{WireGuard, Remote, []Payload{IP}}, sort{VXLAN, Remote, both}}
	for _, c := range []struct {
		set     Set
		class   Class
		payload Payload
		want    []string
	}{
		{set, Local, Ethernet, []string{Memif, Kernel}},
		{set, Local, IP, []string{Memif, Kernel}},
		{set, Remote, IP, []string{WireGuard, VXLAN}},
		{set, Remote, Ethernet, []string{VXLAN}},
		{set, Remote, "TOKEN-RING", nil},
		{set, "", IP, nil},
		{nil, Local, IP, nil},
	} {
		if got := c.set.Offer(c.class, c.payload); !slices.Equal(got, c.want) {
			t.Errorf("%s %s: %q, want %q", c.class, c.payload, got, c.want)
		}
	}
	for _, m := range set {
		if got, err := set.Get(m.Type()); err != nil || got.Type() != m.Type() {
			t.Errorf("%s: %v, %v", m.Type(), got, err)
		}
	}
	if m, err := set.Get("kernel"); m != nil || !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "MEMIF, KERNEL, WIREGUARD, VXLAN") {
		t.Errorf("%v, %v: %v", m, fault.KindOf(err), err)
	}
}
