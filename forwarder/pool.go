package forwarder

import (
	"context"
	"maps"
	"strings"
	"time"

	"highwire/mechanisms"
	"highwire/vppapi"
)

// The warm pool: devices that VPP holds already, for ends that would otherwise wait until VPP has attached to a new one.
// A spare device stands among the desired wires under a name of its own; it is neither journaled nor shown. An end gets
// one by a change of names in realized state, which costs VPP nothing, and gives it back when its vWire goes.

// pooler is a mechanism with spare devices.
type pooler interface {
	PoolSize() int
	NewDevice() string
	// Fits tells whether a spare device can serve the end.
	Fits(mechanisms.End) bool
	// Spare are the device's objects under the name of an end.
	Spare(end, device string) []vppapi.Object
}

// refillAfter is how long the reconciler must be idle before it makes a spare device: that holds up VPP for 40 ms.
const refillAfter = 100 * time.Millisecond

func (r *Reconciler) pooler() pooler {
	for _, m := range r.cfg.Mechanisms {
		if p, ok := m.(pooler); ok && p.PoolSize() > 0 {
			return p
		}
	}
	return nil
}

func spareEnd(device string) string { return sparePrefix + device + spareSuffix }

const sparePrefix, spareSuffix = "spare-", ":pool"

// spareWire makes a wire of a spare device.
func spareWire(p pooler, device string) *wire {
	w := &wire{v: VWire{ID: sparePrefix + device}, objects: make(map[vppapi.Key]vppapi.Object), spare: device, since: time.Now()}
	for _, o := range p.Spare(spareEnd(device), device) {
		w.objects[o.Key()] = o
	}
	return w
}

// adoptSpares takes spare devices that an earlier life has left into the pool, as many as it has room for.
func (r *Reconciler) adoptSpares(found vppapi.Realized) {
	p := r.pooler()
	if p == nil {
		return
	}
	n, _ := r.spares()
	for _, k := range found.Keys() {
		device, ok := strings.CutPrefix(k.Name, sparePrefix)
		device, ok2 := strings.CutSuffix(device, spareSuffix)
		if k.Kind != vppapi.KindInterface || !ok || !ok2 || n >= p.PoolSize() {
			continue
		}
		if w := spareWire(p, device); r.desired[w.v.ID] == nil {
			r.install(w)
			n++
		}
	}
}

// spares counts the devices in the pool, and names one that is ready.
func (r *Reconciler) spares() (n int, ready *wire) {
	for _, w := range r.desired {
		if w.spare == "" {
			continue
		}
		n++
		whole := true
		for k := range w.objects {
			_, exists := r.have[k]
			whole = whole && exists
		}
		if whole {
			ready = w
		}
	}
	return n, ready
}

// equip gives spare devices to the ends of a new vWire that can use one. An end that was there a moment ago has its own still.
func (r *Reconciler) equip(v *VWire) {
	p := r.pooler()
	if p == nil {
		return
	}
	offload := offloads(*v)
	for _, e := range []*mechanisms.End{&v.Client, &v.Endpoint} {
		fits := *e
		fits.Offload = offload
		if m, ok := r.remnantOf(e.Name()); ok {
			if m.end.Device != "" && p.Fits(fits) {
				e.Device = m.end.Device
			}
			continue
		}
		if m, err := r.cfg.Mechanisms.Get(e.Type); err != nil || m != p.(mechanisms.Mechanism) || !p.Fits(fits) {
			continue
		}
		_, w := r.spares()
		if w == nil {
			return
		}
		r.uninstall(w.v.ID)
		r.rename(p, w.spare, spareEnd(w.spare), e.Name())
		e.Device = w.spare
	}
}

// unequip puts devices back that a vWire got and could not use.
func (r *Reconciler) unequip(v VWire) {
	for _, e := range v.ends() {
		if _, old := r.remnantOf(e.Name()); !old && e.Device != "" {
			r.toPool(e.Name(), e.Device)
			tag := vppapi.Tag{Name: spareEnd(e.Device)} // VPP has not been told anything else yet
			r.have[tag.Key()] = vppapi.Entry{Object: tag}
		}
	}
}

// keepDevices gives the ends of v the devices they had in a former version, where they still serve.
func (r *Reconciler) keepDevices(v *VWire, former VWire) {
	p := r.pooler()
	if p == nil || v.Client.Type != former.Client.Type || v.Endpoint.Type != former.Endpoint.Type {
		return
	}
	keep := func(e *mechanisms.End, device string) {
		fits := *e
		if fits.Offload = offloads(*v); p.Fits(fits) {
			e.Device = device
		}
	}
	keep(&v.Client, former.Client.Device)
	keep(&v.Endpoint, former.Endpoint.Device)
}

func (r *Reconciler) toPool(end, device string) {
	p := r.pooler()
	if p == nil {
		return
	}
	r.rename(p, device, end, spareEnd(device))
	r.install(spareWire(p, device))
}

// rename moves what is realized of a device from one end's name to another's. The tag in VPP still says the old one and
// is made anew.
func (r *Reconciler) rename(p pooler, device, from, to string) {
	renamed := p.Spare(to, device)
	for i, o := range p.Spare(from, device) {
		e, ok := r.have[o.Key()]
		if !ok {
			continue
		}
		delete(r.have, o.Key())
		if renamed[i].Key().Kind != vppapi.KindTag {
			r.have[renamed[i].Key()] = vppapi.Entry{Object: renamed[i], Index: e.Index}
		}
	}
}

// recycle takes the device of a remnant into the pool, if it is one that was ready-made and there is room.
func (r *Reconciler) recycle(ctx context.Context, c *vppapi.Conn, m remnant) bool {
	p := r.pooler()
	_, exists := r.have[vppapi.Interface(m.end.Name())]
	if p == nil || m.end.Device == "" || !exists {
		return false
	}
	if n, _ := r.spares(); n >= p.PoolSize() {
		return false
	}
	device := make(map[vppapi.Key]bool)
	for _, o := range p.Spare(m.end.Name(), m.end.Device) {
		device[o.Key()] = true
	}
	// What the end had on top of the device goes first.
	rest := maps.Clone(m.keys)
	maps.DeleteFunc(rest, func(k vppapi.Key, _ bool) bool { return device[k] })
	for k := range rest {
		delete(r.lingering, k)
	}
	if len(r.converge(ctx, c, rest).errs) > 0 {
		return false
	}
	r.unlinger([]remnant{m})
	r.toPool(m.end.Name(), m.end.Device)
	r.warn(r.converge(ctx, c, r.desired[sparePrefix+m.end.Device].keys()).errs)
	return true
}

// drain removes all spare devices; nobody would use them after this process.
func (r *Reconciler) drain(ctx context.Context, c *vppapi.Conn) {
	keys := make(map[vppapi.Key]bool)
	for id, w := range r.desired {
		if w.spare != "" {
			r.uninstall(id)
			maps.Copy(keys, w.keys())
		}
	}
	if len(keys) > 0 {
		r.warn(r.converge(ctx, c, keys).errs)
	}
}

// refill makes one spare device if there are too few. It tells whether more are missing.
func (r *Reconciler) refill(ctx context.Context, c *vppapi.Conn) bool {
	p := r.pooler()
	if p == nil {
		return false
	}
	n, _ := r.spares()
	if n >= p.PoolSize() || len(r.packets)+n >= r.cfg.MaxAFPacket {
		return false
	}
	w := spareWire(p, p.NewDevice())
	r.install(w)
	keys := w.keys()
	if errs := r.converge(ctx, c, keys).errs; len(errs) > 0 {
		r.warn(errs)
		r.uninstall(w.v.ID)
		r.warn(r.converge(ctx, c, keys).errs)
		return false
	}
	return n+1 < p.PoolSize()
}

func (r *Reconciler) warn(errs vppapi.Errors) {
	for k, err := range errs {
		r.cfg.Log.Warn("spare device", "object", k, "reason", err)
	}
}
