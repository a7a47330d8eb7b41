package main

import (
	"slices"
	"testing"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/tunnel"
	"highwire/mechanisms/wireguard"
)

// What nodes of other makes are offered and in which order, as they do it themselves; between two of highwire the trunk comes
// first where it is wanted.
func TestOffers(t *testing.T) {
	for _, c := range []struct {
		trunk   string
		class   mechanisms.Class
		payload mechanisms.Payload
		want    []string
	}{
		{never, mechanisms.Local, mechanisms.Ethernet, []string{"MEMIF", "KERNEL"}},
		{never, mechanisms.Local, mechanisms.IP, []string{"MEMIF", "KERNEL"}},
		{never, mechanisms.Remote, mechanisms.Ethernet, []string{"VXLAN"}},
		{never, mechanisms.Remote, mechanisms.IP, []string{"WIREGUARD"}},
		{auto, mechanisms.Remote, mechanisms.Ethernet, []string{"HIGHWIRE_TRUNK", "VXLAN"}},
		{auto, mechanisms.Remote, mechanisms.IP, []string{"HIGHWIRE_TRUNK", "WIREGUARD"}},
	} {
		e := ends{trunk: c.trunk}
		set, end := e.mechanisms(kernel.NewNamespaces(), tunnel.Fixed{}, wireguard.NewSecret([32]byte{}), "")
		if got := set.Offer(c.class, c.payload); !slices.Equal(got, c.want) {
			t.Errorf("trunk %s: %s of class %s: %v, want %v", c.trunk, c.payload, c.class, got, c.want)
		}
		end()
	}
}
