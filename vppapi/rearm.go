package vppapi

import (
	"sync"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

// rearm gives interfaces their rx mode again. A memif has queues only while it is connected, and VPP polls each new one
// whatever mode was set before. A few of those cost it a core, so this does not wait until somebody has looked at a dump.
type rearm struct {
	mu       sync.Mutex
	adaptive map[interface_types.InterfaceIndex]bool // as last set in this session
	up       []call                                  // for links that came up since
	some     chan struct{}
}

func newRearm() rearm {
	return rearm{adaptive: make(map[interface_types.InterfaceIndex]bool), some: make(chan struct{}, 1)}
}

// set remembers what VPP was told.
func (r *rearm) set(q *interfaces.SwInterfaceSetRxMode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Mode == interface_types.RX_MODE_API_ADAPTIVE {
		r.adaptive[q.SwIfIndex] = true
	} else {
		delete(r.adaptive, q.SwIfIndex)
	}
}

// hear takes note of links that come up, and forgets interfaces that are gone: their indices are given to others.
func (r *rearm) hear(e *interfaces.SwInterfaceEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Deleted:
		delete(r.adaptive, e.SwIfIndex)
	case e.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0 && r.adaptive[e.SwIfIndex]:
		r.up = append(r.up, call{req: &interfaces.SwInterfaceSetRxMode{SwIfIndex: e.SwIfIndex, Mode: interface_types.RX_MODE_API_ADAPTIVE}})
		select {
		case r.some <- struct{}{}:
		default:
		}
	}
}

func (r *rearm) take() []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	up := r.up
	r.up = nil
	return up
}

// rearmAll runs until the session ends. An answer of VPP's that is an error is left to the next dump: the interface may be
// gone by now.
func (c *Conn) rearmAll() {
	for {
		select {
		case <-c.rearm.some:
			_, _ = c.flush(c.run, c.rearm.take())
		case <-c.run.Done():
			return
		}
	}
}
