package forwarder

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// A thread of VPP hangs when 16 or more of its af_packet descriptors become readable at once in interrupt mode: it never
// leaves the loop that asks for more. So few queues of a thread stay in interrupt mode, the others are polled; and few are
// made at a time, because each begins in interrupt mode. Together, and with one whose polling is renewed, they stay below 16.
// All this counts queues of one thread: an interface has at most one on each (vppapi.KernelQueues), and VPP gives those of new
// interfaces to its workers in turn.
const (
	interruptQueues = 8
	madeAtOnce      = 6
)

// DefaultMaxAFPacket is how many af_packet interfaces a VPP gets: each is polled, takes memory and 40 ms to make.
const DefaultMaxAFPacket = 256

// packetEnd is how VPP waits for packets of an af_packet interface.
type packetEnd struct {
	interrupt bool
	threads   []int // which worker serves each queue; 0 for the main thread where there are no workers
}

// room refuses a wire that has one af_packet interface too many.
func (r *Reconciler) room(w *wire) error {
	others := len(r.packets)
	for k := range w.objects {
		if _, known := r.packets[k.Name]; known && k.Kind == vppapi.KindInterface {
			others--
		}
	}
	for _, o := range w.objects {
		if _, ok := o.(vppapi.AFPacket); !ok {
			continue
		}
		if others++; others > r.cfg.MaxAFPacket {
			return fault.New(fault.Exhausted, "this node has its %d kernel interfaces over af_packet; load the module vhost_net "+
				"(/dev/vhost-net is missing) so that VPP makes taps, which have no such limit", r.cfg.MaxAFPacket)
		}
	}
	return r.buffersFor(w)
}

// reservedBuffers is the part of VPP's pool, one in so many, that is kept for packets under way.
const reservedBuffers = 4

// buffersFor refuses a wire whose rings would take buffers that packets under way need: a VPP without free buffers drops
// everybody's. What a former version of the wire holds is its own.
func (r *Reconciler) buffersFor(w *wire) error {
	wanted := r.ringBuffers(w)
	if wanted == 0 || r.buffers == 0 {
		return nil
	}
	held := 0
	for id, o := range r.desired {
		if id != w.v.ID {
			held += r.ringBuffers(o)
		}
	}
	if limit := r.buffers - r.buffers/reservedBuffers; held+wanted > limit {
		return fault.New(fault.Exhausted, "VPP has %d buffers, %d of which its interfaces' rings may hold and %d they do; this vWire's take %d: "+
			"give VPP more, with --vpp-vwires or buffers-per-numa", r.buffers, limit, held, wanted)
	}
	return nil
}

func (r *Reconciler) ringBuffers(w *wire) (n int) {
	for _, o := range w.objects {
		n += vppapi.RingBuffers(o, r.workers)
	}
	return n
}

// place decides which workers serve the wire's af_packet interfaces, those with the fewest queues, and whether VPP polls them.
// Where a former version had them they stay.
func (r *Reconciler) place(w *wire) {
	queues, interrupts := make([]int, max(1, r.workers)), make([]int, max(1, r.workers))
	take := func(p packetEnd) {
		for _, t := range p.threads {
			queues[t]++
			if p.interrupt {
				interrupts[t]++
			}
		}
	}
	for end, p := range r.packets {
		if _, mine := w.objects[vppapi.Interface(end)]; !mine {
			take(p)
		}
	}
	for _, o := range w.packets() {
		p, known := r.packets[o.Name]
		if !known {
			p.threads = fewest(queues, vppapi.KernelQueues(o.Queues, r.workers))
			p.interrupt = !slices.ContainsFunc(p.threads, func(t int) bool { return interrupts[t] >= interruptQueues })
		}
		take(p)
		if !p.interrupt {
			w.add(vppapi.RxMode{Name: o.Name, Mode: vppapi.Polling})
		}
		for q, t := range p.threads {
			if r.workers > 0 {
				w.add(vppapi.RxPlacement{Name: o.Name, Queue: uint32(q), Worker: uint32(t)})
			}
		}
	}
}

// packets are the wire's af_packet interfaces by name.
func (w *wire) packets() (list []vppapi.AFPacket) {
	for _, o := range w.objects {
		if p, ok := o.(vppapi.AFPacket); ok {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b vppapi.AFPacket) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// fewest are the n threads with the lowest load, lowest first.
func fewest(load []int, n int) []int {
	threads := make([]int, len(load))
	for t := range threads {
		threads[t] = t
	}
	slices.SortStableFunc(threads, func(a, b int) int { return cmp.Compare(load[a], load[b]) })
	return threads[:n]
}

// replace places all af_packet interfaces anew, because VPP has another number of workers than before.
func (r *Reconciler) replace(workers int) {
	if r.workers == workers {
		return
	}
	r.workers = workers
	wires := slices.SortedFunc(maps.Values(r.desired), func(a, b *wire) int { return cmp.Compare(a.v.ID, b.v.ID) })
	for _, w := range wires {
		r.uninstall(w.v.ID)
	}
	for _, w := range wires {
		for k, o := range w.objects {
			if _, ok := o.(vppapi.RxPlacement); ok {
				delete(w.objects, k)
			}
			if _, ok := o.(vppapi.AFPacket); ok {
				delete(w.objects, vppapi.RxMode{Name: k.Name}.Key())
			}
		}
		if w.spare == "" {
			r.place(w)
		}
		r.install(w)
	}
}

// count keeps track of af_packet interfaces as wires come and go.
func (r *Reconciler) count(w *wire, present bool) {
	if w.spare != "" {
		return // nothing comes in on a spare device
	}
	for _, o := range w.objects {
		p, ok := o.(vppapi.AFPacket)
		if !ok {
			continue
		}
		if !present {
			delete(r.packets, p.Name)
			continue
		}
		_, polled := w.objects[vppapi.RxMode{Name: p.Name}.Key()]
		end := packetEnd{interrupt: !polled, threads: make([]int, vppapi.KernelQueues(p.Queues, r.workers))}
		for q := range end.threads {
			if o, ok := w.objects[vppapi.RxPlacement{Name: p.Name, Queue: uint32(q)}.Key()].(vppapi.RxPlacement); ok {
				end.threads[q] = int(o.Worker)
			}
		}
		r.packets[p.Name] = end
	}
}

// repoll adds to a plan that makes af_packet interfaces a renewal of polling on one that is polled already, without which
// VPP may cease to poll: see vppapi.RxMode.
func (r *Reconciler) repoll(plan *vppapi.Plan, part vppapi.Realized) {
	if !slices.ContainsFunc(plan.Create, func(o vppapi.Object) bool { _, ok := o.(vppapi.AFPacket); return ok }) {
		return
	}
	for end, p := range r.packets {
		mode := vppapi.RxMode{Name: end, Mode: vppapi.Polling}
		e, realized := r.have[vppapi.Interface(end)]
		if _, set := r.have[mode.Key()]; !p.interrupt && realized && set {
			part[vppapi.Interface(end)] = e
			plan.Create = append(plan.Create, mode)
			return
		}
	}
}

// outcome is what converging did.
type outcome struct {
	errs             vppapi.Errors
	removed, created int
}

func (o *outcome) add(p outcome) {
	maps.Copy(o.errs, p.errs)
	o.removed += p.removed
	o.created += p.created
}

// convergeAll converges sets of keys, each of which belongs together, in groups that make few af_packet interfaces each.
func (r *Reconciler) convergeAll(ctx context.Context, c *vppapi.Conn, sets []map[vppapi.Key]bool) outcome {
	total := outcome{errs: vppapi.Errors{}}
	group, n := make(map[vppapi.Key]bool), 0
	run := func() {
		total.add(r.converge(ctx, c, group))
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
