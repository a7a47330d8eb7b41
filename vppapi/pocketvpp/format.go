package pocketvpp

import (
	"cmp"
	"net"
	"slices"
	"strings"

	"go.fd.io/govpp/binapi/interface_types"
)

// ifacesByName are the interfaces as VPP's CLI orders them.
func (s *Server) ifacesByName() func(func(*iface) bool) {
	sorted := slices.SortedFunc(s.ifaces.values(), func(a, b *iface) int { return cmp.Compare(a.name, b.name) })
	return slices.Values(sorted)
}

// center pads text on both sides to the width, as VPP's "%=" does.
func center(text string, width int) string {
	pad := max(width-len(text), 0)
	return strings.Repeat(" ", pad-pad/2) + text + strings.Repeat(" ", pad/2)
}

func upDown(up bool, down string) string {
	if up {
		return "up"
	}
	return down
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func macString(mac hardwareAddr) string { return net.HardwareAddr(mac[:]).String() }

func modeName(m interface_types.RxMode) string {
	name := strings.TrimPrefix(m.String(), "RX_MODE_API_")
	return strings.ToLower(name)
}
