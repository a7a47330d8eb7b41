package forwarder

import (
	"context"
	"maps"
	"slices"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// VPP's main thread hangs when 16 or more of its af_packet descriptors become readable at once in interrupt mode: it never
// leaves the loop that asks for more. So few interfaces stay in interrupt mode, the others are polled; and few are made at
// a time, because each begins in interrupt mode. Together, and with one whose polling is renewed, they stay below 16.
const (
	interruptEnds = 8
	madeAtOnce    = 6
)

// DefaultMaxAFPacket is how many af_packet interfaces a VPP gets: each is polled, takes memory and 40 ms to make.
const DefaultMaxAFPacket = 256

// place decides how VPP waits for packets of the wire's af_packet interfaces, and refuses one too many. Those of a former
// version keep their mode.
func (r *Reconciler) place(w *wire) error {
	others, interrupts := 0, 0
	for end, interrupt := range r.packets {
		if _, mine := w.objects[vppapi.Interface(end)]; mine {
			continue
		}
		others++
		if interrupt {
			interrupts++
		}
	}
	for _, o := range maps.Clone(w.objects) {
		p, ok := o.(vppapi.AFPacket)
		if !ok {
			continue
		}
		if others++; others > r.cfg.MaxAFPacket {
			return fault.New(fault.Exhausted, "this node has its %d kernel interfaces over af_packet; load the module vhost_net "+
				"(/dev/vhost-net is missing) so that VPP makes taps, which have no such limit", r.cfg.MaxAFPacket)
		}
		if interrupt, known := r.packets[p.Name]; known && interrupt || !known && interrupts < interruptEnds {
			interrupts++
			continue
		}
		mode := vppapi.RxMode{Name: p.Name, Mode: vppapi.Polling}
		w.objects[mode.Key()] = mode
	}
	return nil
}

// count keeps track of af_packet interfaces as wires come and go.
func (r *Reconciler) count(w *wire, present bool) {
	if w.spare != "" {
		return // nothing comes in on a spare device
	}
	for _, o := range w.objects {
		p, ok := o.(vppapi.AFPacket)
		switch {
		case ok && present:
			_, polled := w.objects[vppapi.RxMode{Name: p.Name}.Key()]
			r.packets[p.Name] = !polled
		case ok:
			delete(r.packets, p.Name)
		}
	}
}

// repoll adds to a plan that makes af_packet interfaces a renewal of polling on one that is polled already, without which
// VPP may cease to poll: see vppapi.RxMode.
func (r *Reconciler) repoll(p *vppapi.Plan, part vppapi.Realized) {
	if !slices.ContainsFunc(p.Create, func(o vppapi.Object) bool { _, ok := o.(vppapi.AFPacket); return ok }) {
		return
	}
	for end, interrupt := range r.packets {
		mode := vppapi.RxMode{Name: end, Mode: vppapi.Polling}
		e, realized := r.have[vppapi.Interface(end)]
		if _, set := r.have[mode.Key()]; !interrupt && realized && set {
			part[vppapi.Interface(end)] = e
			p.Create = append(p.Create, mode)
			return
		}
	}
}

// outcome is what converging did.
type outcome struct {
	errs             vppapi.Errors
	removed, created int
}

// convergeAll converges sets of keys, each of which belongs together, in groups that make few af_packet interfaces each.
func (r *Reconciler) convergeAll(ctx context.Context, c *vppapi.Conn, sets []map[vppapi.Key]bool) outcome {
	total := outcome{errs: vppapi.Errors{}}
	group, n := make(map[vppapi.Key]bool), 0
	run := func() {
		o := r.converge(ctx, c, group)
		maps.Copy(total.errs, o.errs)
		total.removed += o.removed
		total.created += o.created
		group, n = make(map[vppapi.Key]bool), 0
	}
	for _, set := range sets {
		m := 0
		for k := range set {
			if _, exists := r.have[k]; exists {
				continue
			}
			if o, ok := r.wanted(k); ok {
				if _, ok := o.(vppapi.AFPacket); ok {
					m++
				}
			}
		}
		if n > 0 && n+m > madeAtOnce {
			run()
		}
		maps.Copy(group, set)
		n += m
	}
	run()
	return total
}
