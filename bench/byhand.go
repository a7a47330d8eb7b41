package bench

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// The baseline over VPP: what a person would make with ip and vppctl, with the best settings highwire knows.

// handDevices are VPP's sides of the hand-made veth pairs.
var handDevices = [2]string{"hand0", "hand1"}

// handVeths makes the kernel's half: a veth pair for each end, VPP's side up and silent.
func (e ends) handVeths() error {
	if err := errors.Join(veth(handDevices[0], e.client, clientAddr), veth(handDevices[1], e.endpoint, endpointAddr)); err != nil {
		return err
	}
	for _, name := range handDevices {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("silence %s: %w", name, err)
		}
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			return fmt.Errorf("bring %s up: %w", name, err)
		}
	}
	return nil
}

// hostInterfaces are VPP's half in lines for vppctl: rings and flags as the agent asks for, qdisc bypass and checksum and GSO
// pass-through being what the command line does unless told otherwise.
func hostInterfaces() []string {
	var lines []string
	for _, d := range handDevices {
		lines = append(lines, "create host-interface name "+d+" rx-size 2048 rx-per-block 40 tx-size 67584 tx-per-block 128")
	}
	return append(lines, crossConnect("host-"+handDevices[0], "host-"+handDevices[1])...)
}

// crossConnect are the lines that join two interfaces of VPP and bring them up.
func crossConnect(a, b string) []string {
	return []string{
		"set interface l2 xconnect " + a + " " + b, "set interface l2 xconnect " + b + " " + a,
		"set interface state " + a + " up", "set interface state " + b + " up",
	}
}

// deleteHostInterfaces takes VPP's half away.
func (d *dataplane) deleteHostInterfaces(ctx context.Context) error {
	return d.cli(ctx, "delete host-interface name "+handDevices[0], "delete host-interface name "+handDevices[1])
}

// deleteHandVeths takes the kernel's half away; VPP's must be gone.
func deleteHandVeths() error {
	var errs []error
	for _, name := range handDevices {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
