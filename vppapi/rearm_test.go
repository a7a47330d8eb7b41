package vppapi

import (
	"testing"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// TestRearm: links that come up are set again if they were adaptive, and nobody inherits a mode with an index.
func TestRearm(t *testing.T) {
	const up = interface_types.IF_STATUS_API_FLAG_LINK_UP
	set := func(i interface_types.InterfaceIndex, m interface_types.RxMode) func(*rearm) {
		return func(r *rearm) { r.set(&interfaces.SwInterfaceSetRxMode{SwIfIndex: i, Mode: m}) }
	}
	hear := func(i interface_types.InterfaceIndex, f interface_types.IfStatusFlags, deleted bool) func(*rearm) {
		return func(r *rearm) { r.hear(&interfaces.SwInterfaceEvent{SwIfIndex: i, Flags: f, Deleted: deleted}) }
	}
	adaptive, polling := interface_types.RX_MODE_API_ADAPTIVE, interface_types.RX_MODE_API_POLLING
	for name, c := range map[string]struct {
		happens []func(*rearm)
		again   int
	}{
		"link up":             {[]func(*rearm){set(1, adaptive), hear(1, up, false)}, 1},
		"twice":               {[]func(*rearm){set(1, adaptive), hear(1, up, false), hear(1, 0, false), hear(1, up, false)}, 2},
		"link down":           {[]func(*rearm){set(1, adaptive), hear(1, 0, false)}, 0},
		"another interface":   {[]func(*rearm){set(1, adaptive), hear(2, up, false)}, 0},
		"never set":           {[]func(*rearm){hear(1, up, false)}, 0},
		"polled since":        {[]func(*rearm){set(1, adaptive), set(1, polling), hear(1, up, false)}, 0},
		"the index goes over": {[]func(*rearm){set(1, adaptive), hear(1, 0, true), hear(1, up, false)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRearm()
			for _, fn := range c.happens {
				fn(&r)
			}
			calls := r.take()
			if len(calls) != c.again || len(r.some) != min(1, c.again) {
				t.Fatalf("%d calls and %d signals, want %d", len(calls), len(r.some), c.again)
			}
			for _, cl := range calls {
				if q := cl.req.(*interfaces.SwInterfaceSetRxMode); q.SwIfIndex != 1 || q.Mode != adaptive {
					t.Errorf("%+v", q)
				}
			}
			if len(r.take()) != 0 {
				t.Error("taken twice")
			}
		})
	}
}
