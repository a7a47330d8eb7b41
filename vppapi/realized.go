package vppapi

import (
	"maps"
	"slices"
	"strings"

	"go.fd.io/govpp/binapi/interface_types"

	"highwire/vppapi/fault"
)

// Entry is one object that is known to exist.
type Entry struct {
	Object Object
	// Index is what VPP calls it: the sw_if_index of an object of KindInterface, the peer index of one of KindPeer.
	Index uint32
}

// Realized is what the dataplane really holds of ours.
type Realized map[Key]Entry

// Keys returns the keys in the order of creation.
func (r Realized) Keys() []Key { return slices.SortedFunc(maps.Keys(r), compareKeys) }

// Adopt replaces entries that a dump found by the wanted objects they can serve as, so that later comparisons are exact.
func (r Realized) Adopt(want map[Key]Object) {
	for k, w := range want {
		e, ok := r[k]
		if m, isMemif := w.(Memif); isMemif && !ok {
			e, ok = r[Interface(strayName(m.Socket.ID()))]
		}
		if a, partly := w.(adopter); ok && (same(w, e.Object) || partly && a.adopts(e.Object)) {
			r[k] = Entry{w, e.Index}
		}
	}
	// What is a stray still is not ours.
	maps.DeleteFunc(r, func(k Key, _ Entry) bool { return k.Kind == KindInterface && strings.HasPrefix(k.Name, "?") })
}

// at resolves interfaces against r.
func (r Realized) at(k Key) (interface_types.InterfaceIndex, error) {
	e, ok := r[k]
	if !ok {
		return 0, fault.New(fault.Unavailable, "%s does not exist", k)
	}
	return interface_types.InterfaceIndex(e.Index), nil
}

// equaler is an object that == cannot compare.
type equaler interface{ Equal(Object) bool }

// same tells whether both are built the same way. What only a dump does not show is for Adopt, once: compared with what we
// have made ourselves, every difference counts.
func same(a, b Object) bool {
	if e, ok := a.(equaler); ok {
		return e.Equal(b)
	}
	return a == b
}
