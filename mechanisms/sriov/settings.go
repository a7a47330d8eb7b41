package sriov

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// settings are what a PF enforces on one of its VFs, whatever the VF's user does.
type settings struct {
	MAC        vppapi.HardwareAddr
	VLAN       uint16 // 0 for none
	SpoofCheck bool
	Trust      bool
	MaxRate    int // Mb/s, 0 for no bound
}

func (s settings) String() string {
	text := "mac " + s.MAC.String()
	if s.VLAN != 0 {
		text += fmt.Sprintf(" vlan %d", s.VLAN)
	}
	if s.SpoofCheck {
		text += " spoof-check"
	}
	if s.Trust {
		text += " trust"
	}
	if s.MaxRate != 0 {
		text += fmt.Sprintf(" rate %d Mb/s", s.MaxRate)
	}
	return text
}

// admin is the interface of a VF's PF, and the VF's number there.
func (h Host) admin(vf string) (netlink.Link, int, error) {
	pf := linkBase(h.device(vf, "physfn"))
	if pf == "" {
		return nil, 0, fault.New(fault.Unavailable, "VF %s is gone; was its PF reset?", vf)
	}
	name := h.netdev(pf)
	if name == "" {
		return nil, 0, fault.New(fault.Unavailable, "PF %s has no interface in the agent's network namespace", pf)
	}
	functions, err := h.functions(pf)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range functions {
		if f.Address == vf {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return nil, 0, fmt.Errorf("PF interface %s: %w", name, err)
			}
			return link, f.Number, nil
		}
	}
	return nil, 0, fault.New(fault.Unavailable, "PF %s does not have VF %s any more", pf, vf)
}

// enforce makes the PF enforce s on the VF, and tells whether anything had to be changed.
func (h Host) enforce(vf string, s settings) (changed bool, err error) {
	pf, n, err := h.admin(vf)
	if err != nil {
		return false, err
	}
	have, ok := infoOf(pf, n)
	if !ok {
		return false, fault.New(fault.Unavailable, "the driver of PF interface %s does not show its VF %d", pf.Attrs().Name, n)
	}
	if pf.Attrs().Flags&net.FlagUp == 0 {
		// The VFs of a PF that is down have no link.
		if err := raise(pf.Attrs().Name); err != nil {
			return false, err
		}
		changed = true
	}
	for _, step := range []struct {
		what   string
		differ bool
		// plain: it asks for what a card does anyway; one that cannot be told so is fine.
		plain bool
		set   func() error
	}{
		{"MAC", have.Mac.String() != s.MAC.String(), false, func() error { return netlink.LinkSetVfHardwareAddr(pf, n, net.HardwareAddr(s.MAC[:])) }},
		{"VLAN", have.Vlan != int(s.VLAN), s.VLAN == 0, func() error { return netlink.LinkSetVfVlan(pf, n, int(s.VLAN)) }},
		{"spoof check", have.Spoofchk != s.SpoofCheck, true, func() error { return netlink.LinkSetVfSpoofchk(pf, n, s.SpoofCheck) }},
		{"trust", (have.Trust == 1) != s.Trust, !s.Trust, func() error { return netlink.LinkSetVfTrust(pf, n, s.Trust) }},
		{"rate", int(have.MaxTxRate) != s.MaxRate, s.MaxRate == 0, func() error { return netlink.LinkSetVfRate(pf, n, 0, s.MaxRate) }},
	} {
		if !step.differ {
			continue
		}
		err := step.set()
		if errors.Is(err, unix.EOPNOTSUPP) && step.plain {
			continue
		}
		if err != nil {
			return changed, fmt.Errorf("set %s of VF %d at %s: %w", step.what, n, pf.Attrs().Name, err)
		}
		changed = true
	}
	return changed, nil
}

// raise brings a PF's interface up.
func raise(name string) error {
	if name == "" {
		return fault.New(fault.Unavailable, "it has no interface in the agent's network namespace")
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("bring PF interface %s up: %w", name, err)
	}
	return nil
}

// enforced tells whether the PF enforces s, as far as its driver shows it.
func (h Host) enforced(vf string, s settings) bool {
	pf, n, err := h.admin(vf)
	if err != nil {
		return false
	}
	have, ok := infoOf(pf, n)
	return ok && pf.Attrs().Flags&net.FlagUp != 0 && have.Mac.String() == s.MAC.String() && have.Vlan == int(s.VLAN)
}

func infoOf(pf netlink.Link, n int) (netlink.VfInfo, bool) {
	for _, v := range pf.Attrs().Vfs {
		if v.ID == n {
			return v, true
		}
	}
	return netlink.VfInfo{}, false
}
