package vppapi

import (
	"maps"
	"slices"
	"strings"
)

// Plan is what has to be done to come from one state to another. It changes nothing by itself.
type Plan struct {
	// Remove are objects to take away, in order: what was made last goes first.
	Remove []Object
	// Vanish are objects that go by themselves with something in Remove.
	Vanish []Object
	// Create are objects to make, in order.
	Create []Object
	// Again: something has to be removed before it can be made anew, so that a second Diff and Apply will follow.
	Again bool
}

// Empty: there is nothing to do.
func (p Plan) Empty() bool { return len(p.Remove) == 0 && len(p.Vanish) == 0 && len(p.Create) == 0 }

// String is one line a step: '-' removes, '.' vanishes, '+' creates. It holds no secrets.
func (p Plan) String() string {
	var b strings.Builder
	for _, part := range []struct {
		mark    string
		objects []Object
	}{{"- ", p.Remove}, {". ", p.Vanish}, {"+ ", p.Create}} {
		for _, o := range part.objects {
			b.WriteString(part.mark + o.Key().String() + ": " + o.String() + "\n")
		}
	}
	if p.Again {
		b.WriteString("and again\n")
	}
	return b.String()
}

// Diff compares wanted objects with what there is. Both may be the part of the whole that belongs to some vWires, as long
// as it holds everything those vWires use.
func Diff(want map[Key]Object, have Realized) Plan {
	var p Plan
	leaving := make(map[Key]bool)
	for _, k := range have.Keys() {
		o := have[k].Object
		w, wanted := want[k]
		// Settings are overwritten in place; links and interfaces have to be made anew.
		replaced := wanted && k.Kind <= KindInterface && !same(w, o)
		if usesAny(o, leaving) {
			leaving[k] = true
		} else if !wanted {
			// An interface always has an MTU and an rx mode; without a wish for them they are no concern of ours.
			leaving[k] = k.Kind != KindSetting
		} else if replaced {
			leaving[k] = true
		}
	}
	for _, k := range slices.Backward(have.Keys()) {
		if !leaving[k] {
			continue
		}
		o := have[k].Object
		_, outlives := o.(Outliver)
		if k.Kind > KindInterface && !outlives && usesAny(o, leaving) {
			p.Vanish = append(p.Vanish, o)
		} else {
			p.Remove = append(p.Remove, o)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(want), CompareKeys) {
		w := want[k]
		e, exists := have[k]
		switch {
		case leaving[k] || usesAny(w, leaving):
			leaving[k] = true
			p.Again = true
		case exists && same(w, e.Object):
		default:
			p.Create = append(p.Create, w)
		}
	}
	return p
}

func usesAny(o Object, set map[Key]bool) bool {
	return slices.ContainsFunc(o.Uses(), func(k Key) bool { return set[k] })
}
