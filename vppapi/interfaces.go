package vppapi

import (
	"context"
	"strings"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// InterfaceState is an interface of VPP, of ours or not.
type InterfaceState struct {
	Index uint32
	// Name is VPP's own, Type what kind of device it is, e.g. "af-packet".
	Name, Type string
	// End is the end of a vWire ("<vwire>:<side>") that it is tagged for; empty for what is not ours.
	End string
	// Admin and Link: wanted up, and up.
	Admin, Link bool
	// MTU of L3 in bytes.
	MTU uint32
	MAC HardwareAddr
}

// Interfaces lists all interfaces of VPP by sw_if_index (sw_interface_dump).
func (c *Conn) Interfaces(ctx context.Context) ([]InterfaceState, error) {
	var all []InterfaceState
	err := c.dump(ctx, func(m api.Message) {
		i, ok := m.(*interfaces.SwInterfaceDetails)
		if !ok {
			return
		}
		s := InterfaceState{
			Index: uint32(i.SwIfIndex), Name: text(i.InterfaceName), Type: text(i.InterfaceDevType), MAC: HardwareAddr(i.L2Address),
			Admin: i.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0, Link: i.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0,
		}
		if end, ours := strings.CutPrefix(text(i.Tag), tagPrefix); ours {
			s.End = end
		}
		if len(i.Mtu) > 0 {
			s.MTU = i.Mtu[0]
		}
		all = append(all, s)
	}, &interfaces.SwInterfaceDump{SwIfIndex: every})
	return all, err
}
