// Package sriov gives peers virtual functions (VFs) of network cards that split themselves in hardware (SR-IOV).
//
// A VF reaches its peer in one of two shapes: as an ordinary kernel interface, moved into the peer's namespace and back
// (type KERNEL with a tokenID), or as a device for a driver in user space, such as DPDK's (type VFIO). Packets go through the
// card's own switch, not through VPP:
//
//	a tokenID        asks for a capability in a service domain; tokens name no VF
//	Pool.Reserve     chooses a free VF that has it, and writes its PCI address into the end's parameters
//	the journal      keeps these parameters with the vWire; after a restart the same ends claim the same VFs
//	Lent, Passed     are the VF in use: its settings at the physical function (PF), its driver, its place
//
// Two ends with VFs are joined by the card or the network behind it, which is why both must be of one service domain. A vWire
// with a VF at one end only is refused: nothing would carry packets between the card and VPP.
//
// What the hardware is comes from sysfs alone (Host.Scan) and what it is for from a file (Config). Everything that changes
// something does so through sysfs, netlink to the PF, or a cgroup, and can be done again without harm.
package sriov
