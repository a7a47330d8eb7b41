package vppapi

import (
	"maps"
	"slices"

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
func (r Realized) Keys() []Key { return slices.SortedFunc(maps.Keys(r), CompareKeys) }

// Adopt replaces entries that a dump found by the wanted objects they can serve as, so that later comparisons are exact. A tunnel
// without a tag that serves as none is forgotten, as somebody else's, unless its key is in ours.
func (r Realized) Adopt(want map[Key]Object, ours map[Key]bool) {
	for k, w := range want {
		found := k
		if s, ok := w.(straying); ok && r[k].Object == nil {
			found = Interface(strayName(s.stray()))
		}
		e, ok := r[found]
		if a, partly := w.(adopter); ok && (same(w, e.Object) || partly && a.adopts(e.Object)) {
			delete(r, found)
			r[k] = Entry{w, e.Index}
		}
	}
	maps.DeleteFunc(r, func(k Key, e Entry) bool {
		t, tunnel := e.Object.(named)
		return tunnel && k.Name == strayName(t.stray()) && !ours[k]
	})
}

// Untagged is the key under which a dump shows a tunnel that VPP was told to make and perhaps not yet to tag.
func Untagged(o Object) (k Key, tunnel bool) {
	t, tunnel := o.(named)
	if !tunnel {
		return Key{}, false
	}
	return Interface(strayName(t.stray())), true
}

// straying is an interface that gets its tag only after it was made. Until then it goes by what it is made on.
type straying interface {
	Object
	stray() string
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
