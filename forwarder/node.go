package forwarder

import (
	"context"

	"highwire/vppapi"
)

// nodeID is that of the wire which holds the node's own objects. It is neither journaled nor shown, and no vWire's id.
const nodeID = "/node"

// isVWire: it is not one of the wires that the forwarder keeps for itself.
func (w *wire) isVWire() bool { return w.spare == "" && !w.node }

// nodeChanged never fires without a Node.
func (r *Reconciler) nodeChanged() <-chan struct{} {
	if r.cfg.Node == nil {
		return nil
	}
	return r.cfg.Node.Changed()
}

// installNode makes the node's objects of now wanted, and returns the keys of those and of the former ones.
func (r *Reconciler) installNode() map[vppapi.Key]bool {
	keys := make(map[vppapi.Key]bool)
	if r.cfg.Node == nil {
		return keys
	}
	w := &wire{v: VWire{ID: nodeID}, objects: make(map[vppapi.Key]vppapi.Object), node: true}
	for _, o := range r.cfg.Node.Objects() {
		w.objects[o.Key()] = o
		keys[o.Key()] = true
	}
	r.place(w)
	if former := r.install(w); former != nil {
		for k := range former.objects {
			keys[k] = true
		}
	}
	for k := range w.objects {
		keys[k] = true
	}
	return keys
}

// convergeNode follows a change of the node's objects.
func (r *Reconciler) convergeNode(ctx context.Context, c *vppapi.Conn) {
	for k, err := range r.converge(ctx, c, r.installNode()).errs {
		r.unsettled = true
		r.cfg.Log.Warn("the node's own dataplane is not as it should be, trying again", "object", k, "reason", err)
	}
}
