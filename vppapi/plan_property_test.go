package vppapi

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestDiffConverges compares plans with a naive model of the dataplane: whatever there is, three rounds of Diff lead to what
// is wanted, and no step needs what is not there at that moment.
func TestDiffConverges(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range 3000 {
		from, to := randomState(r), randomState(r)
		w := world{t: t, have: make(map[Key]Object)}
		w.reach(objects(from...))
		// Whatever is known need not be all: an interface has settings that nobody asked for.
		for k := range maps.Clone(w.have) {
			if k.Kind == KindInterface {
				w.have[Key{KindSetting, k.Name + " mtu"}] = MTU{k.Name, uint32(1 + r.IntN(3))}
			}
		}
		w.reach(objects(to...))
		if t.Failed() {
			t.Fatalf("seed %d, case %d, from\n%v\nto\n%v", seed, n, from, to)
		}
	}
}

// randomState is a set of objects that holds all they use.
func randomState(r *rand.Rand) []Object {
	var list []Object
	var ends []string
	few := func() byte { return byte(r.IntN(2)) }
	for i := range 4 {
		end := fmt.Sprintf("w:%d", i)
		if r.IntN(3) == 0 {
			continue
		}
		ends = append(ends, end)
		if r.IntN(2) == 0 {
			list = append(list, link(end, fmt.Sprint("veth ", few())), AFPacket{Name: end, Host: end, MAC: HardwareAddr{2, few()}},
				local{Key{KindNetns, end}, "link", fmt.Sprint("addresses ", few())}, local{Key{KindCarrier, end}, "both", fmt.Sprint("up ", few())})
		} else {
			list = append(list, Tap{Name: end, Host: end, MAC: HardwareAddr{2, few()}, L3: few() == 0},
				local{Key{KindNetns, end}, "interface", fmt.Sprint("addresses ", few())})
		}
		for _, o := range []Object{Tag{end}, MTU{end, uint32(few())}, RxMode{end, Mode(few())}, Up{end}, Neighbor{end, netip.AddrFrom4([4]byte{10, 0, 0, few()}), HardwareAddr{2, few()}}} {
			if r.IntN(2) == 0 {
				list = append(list, o)
			}
		}
	}
	for range r.IntN(6) {
		if len(ends) < 2 {
			break
		}
		a, b := ends[r.IntN(len(ends))], ends[r.IntN(len(ends))]
		if r.IntN(2) == 0 {
			list = append(list, L2XConnect{a, b})
		} else {
			list = append(list, L3XConnect{a, b, netip.AddrFrom4([4]byte{10, 0, 0, few()})})
		}
	}
	return list
}

// world is a dataplane that carries plans out one step at a time and complains.
type world struct {
	t    *testing.T
	have map[Key]Object
}

func (w *world) reach(want map[Key]Object) {
	w.t.Helper()
	touched := w.mayTouch(want)
	for range 3 {
		p := Diff(want, w.realized())
		w.carryOut(p)
		for _, o := range append(p.Remove, p.Vanish...) {
			if !touched[o.Key()] {
				w.t.Errorf("%s is taken away without need", o.Key())
			}
		}
		if !p.Again {
			break
		}
	}
	if p := Diff(want, w.realized()); !p.Empty() || p.Again {
		w.t.Errorf("after three rounds there is still to do:\n%s", p)
	}
	for k, o := range want {
		if w.have[k] != o {
			w.t.Errorf("%s is %v, want %v", k, w.have[k], o)
		}
	}
	for k, o := range w.have {
		if _, wanted := want[k]; !wanted && (k.Kind != KindSetting || !w.holds(o.Uses())) {
			w.t.Errorf("%s is left", k)
		}
	}
}

// mayTouch is what has a reason to be taken away: it is not wanted, or stands, however far down, on what is replaced.
func (w *world) mayTouch(want map[Key]Object) map[Key]bool {
	touched := make(map[Key]bool)
	for range w.have { // as deep as anything can stand
		for k, o := range w.have {
			wanted, ok := want[k]
			touched[k] = touched[k] || !ok || k.Kind <= KindInterface && wanted != o ||
				slices.ContainsFunc(o.Uses(), func(u Key) bool { return touched[u] })
		}
	}
	return touched
}

func (w *world) realized() Realized {
	r := make(Realized)
	for k, o := range w.have {
		r[k] = Entry{Object: o}
	}
	return r
}

func (w *world) holds(keys []Key) bool {
	return !slices.ContainsFunc(keys, func(k Key) bool { _, ok := w.have[k]; return !ok })
}

func (w *world) carryOut(p Plan) {
	vanished := make(map[Key]bool)
	for _, o := range p.Remove {
		k := o.Key()
		if w.have[k] != o {
			w.t.Errorf("removes %s, which is not there", k)
		}
		if !w.holds(o.Uses()) {
			w.t.Errorf("removes %s after what it stands on", k)
		}
		delete(w.have, k)
		w.collapse(k, vanished)
	}
	for _, o := range p.Vanish {
		if !vanished[o.Key()] {
			w.t.Errorf("%s does not vanish by itself", o.Key())
		}
		delete(vanished, o.Key())
	}
	for k := range vanished {
		w.t.Errorf("%s vanishes, which the plan does not know", k)
	}
	for _, o := range p.Create {
		old, exists := w.have[o.Key()]
		switch {
		case !w.holds(o.Uses()):
			w.t.Errorf("makes %s on what is not there", o.Key())
		case exists && o.Key().Kind <= KindInterface:
			w.t.Errorf("makes %s beside the old one, %v", o.Key(), old)
		case exists && old == o:
			w.t.Errorf("makes %s again", o.Key())
		}
		w.have[o.Key()] = o
	}
}

// collapse takes away what goes with k.
func (w *world) collapse(k Key, vanished map[Key]bool) {
	for u, o := range w.have {
		if !slices.Contains(o.Uses(), k) {
			continue
		}
		_, outlives := o.(Outliver)
		if u.Kind <= KindInterface || outlives {
			w.t.Errorf("%s goes while %s stands on it", k, u)
			continue
		}
		delete(w.have, u)
		vanished[u] = true
		w.collapse(u, vanished)
	}
}
