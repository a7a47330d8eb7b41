package forwarder

import (
	"context"
	"maps"
	"slices"
	"strings"

	"highwire/mechanisms"
	"highwire/vppapi"
)

// Deletion in the background: VPP takes 40 ms to let go of an af_packet interface and the kernel 15 ms for the link under it,
// and nobody needs to wait for that. A Delete is answered once the vWire forwards nothing and its interfaces have lost
// addresses, routes and names. What is left are the ends' remnants: each is removed when nobody waits, or its device goes into
// the pool. A remnant keeps its tag in VPP and its alias in the kernel, so that after the agent's death the next one finds it
// as a leftover. A Set of the same vWire takes its remnants over as they are.

// maxRemnants bounds what VPP holds though nobody wants it, where Requests never pause.
const maxRemnants = 32

// remnant is an end whose vWire is deleted and whose interface VPP still holds. The end stays held until it is gone.
type remnant struct {
	end  mechanisms.End
	keys map[vppapi.Key]bool
}

// leave finds what of a vWire that goes may stay a while, and marks it.
func (r *Reconciler) leave(former *wire) (left []remnant) {
	for _, e := range former.v.ends() {
		if _, slow := r.have[vppapi.Interface(e.Name())].Object.(vppapi.AFPacket); !slow {
			continue
		}
		keys := make(map[vppapi.Key]bool)
		for k := range former.objects {
			stays := k.Kind <= vppapi.KindSetting || k.Kind == vppapi.KindUp
			if stays && (k.Name == e.Name() || strings.HasPrefix(k.Name, e.Name()+" ")) {
				keys[k] = true
			}
		}
		left = append(left, remnant{e, keys})
	}
	r.linger(left)
	return left
}

func (r *Reconciler) linger(left []remnant) {
	for _, m := range left {
		maps.Copy(r.lingering, m.keys)
	}
}

// unlinger makes remnants what nobody wants.
func (r *Reconciler) unlinger(left []remnant) {
	for _, m := range left {
		for k := range m.keys {
			delete(r.lingering, k)
		}
	}
}

// remnantOf is the remnant of an end, if there is one.
func (r *Reconciler) remnantOf(end string) (remnant, bool) {
	i := slices.IndexFunc(r.remnants, func(m remnant) bool { return m.end.Name() == end })
	if i < 0 {
		return remnant{}, false
	}
	return r.remnants[i], true
}

// claim takes the remnants of a vWire off the list, for its new version.
func (r *Reconciler) claim(id string) (claimed []remnant) {
	r.remnants = slices.DeleteFunc(r.remnants, func(m remnant) bool {
		if m.end.VWire == id {
			claimed = append(claimed, m)
		}
		return m.end.VWire == id
	})
	r.unlinger(claimed)
	return claimed
}

// cleanUp removes the oldest remnant, or takes its device into the pool. It tells whether there was one.
func (r *Reconciler) cleanUp(ctx context.Context, c *vppapi.Conn) bool {
	if len(r.remnants) == 0 {
		return false
	}
	m := r.remnants[0]
	if !r.recycle(ctx, c, m) {
		r.unlinger([]remnant{m})
		errs := r.converge(ctx, c, m.keys).errs
		if c.Err() != nil {
			r.linger(r.remnants[:1]) // for the next VPP's lifetime
			return false
		}
		for k, err := range errs {
			r.unsettled = true
			r.cfg.Log.Warn("a vWire was not removed completely, trying again", "object", k, "reason", err)
		}
	}
	r.remnants = r.remnants[1:]
	r.dropEnd(m.end)
	return true
}

// cleanUpAll removes all remnants.
func (r *Reconciler) cleanUpAll(ctx context.Context, c *vppapi.Conn) {
	for r.cleanUp(ctx, c) {
	}
}
