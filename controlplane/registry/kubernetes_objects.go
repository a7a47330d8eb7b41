package registry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"highwire/vppapi/fault"
)

// lingerTime is how long after its end an endpoint's object is deleted, at least: the clocks of agents differ.
const lingerTime = time.Minute

// objects are the objects of one kind in a Kubernetes API, as last seen. Over them is the overlay, which knows entries by their
// names; several objects may have one, then the oldest counts.
type objects[T entry] struct {
	*overlay[T]
	schema[T]
	client    dynamic.NamespaceableResourceInterface
	namespace string // ours
	linger    time.Duration
	log       *slog.Logger
	changed   chan struct{} // tells expire

	mu    sync.Mutex // before the overlay's
	known map[types.NamespacedName]object[T]
}

type object[T entry] struct {
	*unstructured.Unstructured
	value T // zero where it cannot be read
	// gone: it was deleted by us; what the watch tells of it before its end is old.
	gone    bool
	expired bool
	reap    time.Time // when to delete it, once it has expired
}

func newObjects[T entry](o *overlay[T], s schema[T], client dynamic.Interface, namespace string, linger time.Duration, log *slog.Logger) *objects[T] {
	return &objects[T]{
		overlay: o, schema: s, client: client.Resource(s.resource), namespace: namespace, linger: linger, log: log,
		changed: make(chan struct{}, 1), known: map[types.NamespacedName]object[T]{},
	}
}

func keyOf(o *unstructured.Unstructured) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// read makes an object of what the API said.
func (o *objects[T]) read(raw *unstructured.Unstructured) object[T] {
	raw.SetManagedFields(nil) // large, and kept there when we leave it out
	v, err := o.decode(raw)
	if err != nil {
		o.log.Warn("unreadable; it is left alone", "kind", o.kindName, "object", keyOf(raw), "error", err)
		return object[T]{Unstructured: raw, gone: raw.GetDeletionTimestamp() != nil}
	}
	read := object[T]{Unstructured: raw, value: v, gone: raw.GetDeletionTimestamp() != nil}
	if t, ok := expiration(v); ok {
		read.expired = !time.Now().Before(t)
		read.reap = t.Add(o.linger + rand.N(o.linger))
	}
	return read
}

func (x object[T]) name() string {
	if x.Unstructured == nil {
		return ""
	}
	return x.value.GetName()
}

// live tells whether the object counts.
func (x object[T]) live() bool { return x.name() != "" && !x.gone && !x.expired }

// older orders objects of one name; the oldest has it.
func (x object[T]) older(than object[T]) bool {
	a, b := x.GetCreationTimestamp(), than.GetCreationTimestamp()
	if a.Equal(&b) {
		return keyOf(x.Unstructured).String() < keyOf(than.Unstructured).String()
	}
	return a.Before(&b)
}

// ours tells whether an agent made it.
func (x object[T]) ours(ids []string) bool {
	return len(ids) > 0 || x.GetLabels()[managedBy] == manager
}

// of is the object that has the name. The caller has locked.
func (o *objects[T]) of(name string) (found object[T], ok bool) {
	for _, x := range o.known {
		if x.live() && x.name() == name && (!ok || x.older(found)) {
			found, ok = x, true
		}
	}
	return found, ok
}

// all are the entries that count.
func (o *objects[T]) all() []T {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := map[string]object[T]{}
	for _, x := range o.known {
		if now, ok := first[x.name()]; x.live() && (!ok || x.older(now)) {
			first[x.name()] = x
		}
	}
	var all []T
	for _, x := range first {
		all = append(all, x.value)
	}
	return all
}

// see takes in what the API says of an object, unless a later word was heard already: what we write is seen at once, and what
// the watch tells of the time before comes late.
func (o *objects[T]) see(raw *unstructured.Unstructured, deleted bool) {
	key := keyOf(raw)
	o.mu.Lock()
	defer o.mu.Unlock()
	before, ok := o.known[key]
	if ok && (later(before.GetResourceVersion(), raw.GetResourceVersion()) || before.gone && !deleted && before.GetUID() == raw.GetUID()) {
		return
	}
	var now object[T]
	if deleted {
		delete(o.known, key)
	} else {
		now = o.read(raw)
		o.known[key] = now
	}
	if before.name() != now.name() {
		o.tell(before.name())
	}
	o.tell(now.name())
}

// later tells whether version a is of a later time than b.
func later(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}

// tell makes known what has the name now. The caller has locked.
func (o *objects[T]) tell(name string) {
	if name == "" {
		return
	}
	if x, ok := o.of(name); ok {
		o.hear(Event[T]{Value: x.value})
	} else if v, ok := o.at(name); ok {
		o.hear(Event[T]{Value: v, Deleted: true})
	}
	select {
	case o.changed <- struct{}{}:
	default: // told already
	}
}

// miss takes notice that there is no such object.
func (o *objects[T]) miss(key types.NamespacedName) {
	o.mu.Lock()
	defer o.mu.Unlock()
	name := o.known[key].name()
	delete(o.known, key)
	o.tell(name)
}

// look asks what there is after another has changed it.
func (o *objects[T]) look(ctx context.Context, key types.NamespacedName) error {
	raw, err := o.client.Namespace(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		o.miss(key)
	case err != nil:
		return kubernetesError(err)
	default:
		o.see(raw, false)
	}
	return errChanged
}

// readAll reads all there is and returns its version.
func (o *objects[T]) readAll(ctx context.Context) (version string, err error) {
	o.begin()
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	list, err := o.client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", kubernetesError(err)
	}
	version = list.GetResourceVersion()
	listed := map[types.NamespacedName]bool{}
	for i := range list.Items {
		listed[keyOf(&list.Items[i])] = true
	}
	o.mu.Lock()
	for key, x := range o.known {
		if !listed[key] && !later(x.GetResourceVersion(), version) {
			delete(o.known, key) // restoreOwn tells of it, or writes it again
		}
	}
	o.mu.Unlock()
	for i := range list.Items {
		o.see(&list.Items[i], false)
	}
	return version, nil
}

// listTime bounds a list of all objects, of which there may be many.
const listTime = 30 * time.Second

// steadyTime is how long a watch lasts, at least, that is none that fails at once.
const steadyTime = time.Second

// hearFrom follows what happens after the version until it cannot any more: the API is away, or has forgotten the version.
func (o *objects[T]) hearFrom(ctx context.Context, version string) error {
	for {
		began := time.Now()
		events, err := o.client.Watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
		if err != nil {
			return kubernetesError(err)
		}
		version, err = o.hearUntil(ctx, events, version)
		events.Stop()
		switch {
		case err != nil:
			return err
		case time.Since(began) < steadyTime:
			return fault.New(fault.Unavailable, "kubernetes: the watch of %s ended at once", o.resource.Resource)
		}
		// The API ends every watch after some minutes; this goes on where it was.
	}
}

// hearUntil hears events until the API ends them, and returns the version of the last.
func (o *objects[T]) hearUntil(ctx context.Context, events watch.Interface, version string) (last string, err error) {
	for {
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case event, ok := <-events.ResultChan():
			if !ok {
				return version, nil
			}
			if event.Type == watch.Error {
				return version, kubernetesError(apierrors.FromObject(event.Object))
			}
			raw, ok := event.Object.(*unstructured.Unstructured)
			if !ok {
				return version, fault.New(fault.Unavailable, "kubernetes: the watch of %s tells of a %T", o.resource.Resource, event.Object)
			}
			version = raw.GetResourceVersion()
			if event.Type != watch.Bookmark {
				o.see(raw, event.Type == watch.Deleted)
			}
		}
	}
}
