package registry

import (
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
)

// overlay is what a node sees of a shared registry: what is there, and over it what this node has registered, which is known
// here before the registry's watch tells of it, and still when the registry is away.
type overlay[T entry] struct {
	kind[T]
	*mirror[T]

	state sync.Mutex // before the mirror's
	own   map[string]publication[T]
	there map[string]T
	// heard are the names the present watch has spoken of.
	heard map[string]bool
}

// publication is something of our own that the registry is to have.
type publication[T entry] struct {
	value T
	path  path // as in relay
	// pending: the registry could not be told yet.
	pending bool
	expiry  *time.Timer // of endpoints
}

func newOverlay[T entry](k kind[T], closed <-chan struct{}) *overlay[T] {
	return &overlay[T]{kind: k, mirror: newMirror[T](closed), own: map[string]publication[T]{}, there: map[string]T{}, heard: map[string]bool{}}
}

// publish makes p what we have under its name.
func (o *overlay[T]) publish(p publication[T]) {
	o.state.Lock()
	defer o.state.Unlock()
	o.keep(p)
}

func (o *overlay[T]) keep(p publication[T]) {
	name := p.value.GetName()
	o.stop(name)
	if t, ok := expiration(p.value); ok {
		p.expiry = time.AfterFunc(time.Until(t), func() { o.withdraw(name, p.value) })
	}
	o.own[name] = p
	o.show(name)
}

// confirm is publish of what the registry made of v, unless something else is registered by now.
func (o *overlay[T]) confirm(v T, p publication[T]) {
	o.state.Lock()
	defer o.state.Unlock()
	if now, ok := o.own[v.GetName()]; ok && any(now.value) == any(v) {
		o.keep(p)
	}
}

// withdraw takes away what we have under the name, if it is v.
func (o *overlay[T]) withdraw(name string, v T) {
	o.state.Lock()
	defer o.state.Unlock()
	if p, ok := o.own[name]; ok && any(p.value) == any(v) {
		o.drop(name)
		o.show(name)
	}
}

// forget takes away what anybody has under the name.
func (o *overlay[T]) forget(name string) {
	o.state.Lock()
	defer o.state.Unlock()
	o.drop(name)
	delete(o.there, name)
	o.show(name)
}

// begin starts a new watch of the registry.
func (o *overlay[T]) begin() {
	o.state.Lock()
	defer o.state.Unlock()
	o.heard = map[string]bool{}
}

// hear takes an event of the registry.
func (o *overlay[T]) hear(e Event[T]) {
	name := e.Value.GetName()
	if name == "" {
		return
	}
	o.state.Lock()
	defer o.state.Unlock()
	o.heard[name] = true
	if e.Deleted {
		delete(o.there, name)
		o.dropDeleted(name, e.Value)
	} else {
		o.there[name] = e.Value
		o.dropMoved(name, e.Value)
	}
	o.show(name)
}

// at is what the registry has under the name.
func (o *overlay[T]) at(name string) (v T, ok bool) {
	o.state.Lock()
	defer o.state.Unlock()
	v, ok = o.there[name]
	return v, ok
}

// lost takes notice that the registry has nothing under the name.
func (o *overlay[T]) lost(name string) {
	o.state.Lock()
	defer o.state.Unlock()
	o.heard[name] = true
	delete(o.there, name)
	o.show(name)
}

// settle takes all that the registry has: what it does not have, and has not spoken of since begin, it has lost. What is left
// to be told to it is returned.
func (o *overlay[T]) settle(all []T) (missing []publication[T]) {
	o.state.Lock()
	defer o.state.Unlock()
	listed := map[string]T{}
	for _, v := range all {
		listed[v.GetName()] = v
	}
	for name := range maps.Clone(o.there) {
		if _, ok := listed[name]; !ok && !o.heard[name] {
			delete(o.there, name)
			o.show(name)
		}
	}
	for name, v := range listed {
		if !o.heard[name] {
			o.there[name] = v
			o.show(name)
		}
	}
	for name, p := range o.own {
		if _, ok := o.there[name]; !ok || p.pending {
			missing = append(missing, p)
		}
	}
	return missing
}

// dropDeleted: what was deleted there is deleted here, unless it was registered again meanwhile.
func (o *overlay[T]) dropDeleted(name string, v T) {
	p, ok := o.own[name]
	if !ok || p.pending {
		return
	}
	ours, expires := expiration(p.value)
	theirs, told := expiration(v)
	if !expires || !told || ours.Equal(theirs) {
		o.drop(name)
	}
}

// dropMoved: an endpoint that is registered with another URL now is no longer ours.
func (o *overlay[T]) dropMoved(name string, v T) {
	now, ok := any(v).(*registryapi.NetworkServiceEndpoint)
	if p, own := o.own[name]; ok && own && !p.pending && any(p.value).(*registryapi.NetworkServiceEndpoint).Url != now.Url {
		o.drop(name)
	}
}

func (o *overlay[T]) drop(name string) {
	o.stop(name)
	delete(o.own, name)
}

func (o *overlay[T]) stop(name string) {
	if p := o.own[name]; p.expiry != nil {
		p.expiry.Stop()
	}
}

// show tells the mirror what counts under the name. Of a service that is what the registry has, for anybody may decide about
// it; of an endpoint what it told us itself.
func (o *overlay[T]) show(name string) {
	there, ok := o.there[name]
	p, own := o.own[name]
	if _, expires := expiration(p.value); own && (!ok || expires) {
		there, ok = p.value, true
	}
	if !ok {
		o.replace(name, nil)
		return
	}
	if now, shown := byName(o.list(), name); !shown || !proto.Equal(now, there) {
		o.replace(name, []T{there})
	}
}

// close stops the timers.
func (o *overlay[T]) close() {
	o.state.Lock()
	defer o.state.Unlock()
	for name := range o.own {
		o.drop(name)
	}
}

// expiration is when an entry expires; services never do.
func expiration(v any) (time.Time, bool) {
	e, ok := v.(*registryapi.NetworkServiceEndpoint)
	if !ok || e.GetExpirationTime() == nil {
		return time.Time{}, false
	}
	return e.ExpirationTime.AsTime(), true
}
