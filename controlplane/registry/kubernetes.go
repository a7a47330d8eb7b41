package registry

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// KubernetesConfig says which Kubernetes API keeps the registry.
type KubernetesConfig struct {
	// API is how it is reached.
	API *rest.Config
	// Namespace is where what is registered here goes. What is in others is read too.
	Namespace string

	linger time.Duration // 0 for lingerTime
}

// Kubernetes is a Store in a Kubernetes API that many nodes share: an object per entry, of the kinds NetworkService and
// NetworkServiceEndpoint. People may make objects too: those have no owner, and only people change them. What is there is
// watched and read from memory. An object is written only over the version that was seen, so that two nodes cannot both own a
// name. Kubernetes knows no leases for such objects: every agent hides an endpoint when it expires and, a while later, one of
// them deletes it. While the API is away, this node's registrations go on here and are written when it is back.
type Kubernetes struct {
	*shared
	serviceObjects  *objects[*registryapi.NetworkService]
	endpointObjects *objects[*registryapi.NetworkServiceEndpoint]

	mu    sync.Mutex
	again context.CancelCauseFunc // ends the present round of follow
}

var _ Store = (*Kubernetes)(nil)

// OpenKubernetes follows the API until Close, whether it can be reached now or later.
func OpenKubernetes(c KubernetesConfig) (*Kubernetes, error) {
	if c.Namespace == "" {
		return nil, fault.New(fault.Invalid, "kubernetes: no namespace for what is registered here")
	}
	client, err := dynamic.NewForConfig(c.API)
	if err != nil {
		return nil, fault.New(fault.Invalid, "kubernetes %s: %w", c.API.Host, err)
	}
	log := slog.With("kubernetes", c.API.Host)
	k := &Kubernetes{shared: newShared(log)}
	linger := cmp.Or(c.linger, lingerTime)
	k.serviceObjects = newObjects(k.services, serviceSchema, client, c.Namespace, linger, log)
	k.endpointObjects = newObjects(k.endpoints, endpointSchema, client, c.Namespace, linger, log)
	k.start(k.follow)
	k.done.Go(func() { k.endpointObjects.expire(k.closed) })
	return k, nil
}

// PutService writes s. While the API is away it is kept here and written later. What people made they alone change:
// fault.Conflict.
func (k *Kubernetes) PutService(ctx context.Context, s *registryapi.NetworkService) error {
	return putOwn(ctx, k.shared, k.services, s, k.serviceObjects.write, k.resync)
}

// DeleteService removes the service of the name, if there is one.
func (k *Kubernetes) DeleteService(ctx context.Context, name string) error {
	return k.serviceObjects.remove(ctx, relayOf(ctx).owner, name)
}

// PutEndpoint writes e. While the API is away it is kept here and written later.
func (k *Kubernetes) PutEndpoint(ctx context.Context, e *registryapi.NetworkServiceEndpoint) error {
	return putOwn(ctx, k.shared, k.endpoints, e, k.endpointObjects.write, k.resync)
}

// DeleteEndpoint removes the endpoint of the name, if there is one. While the API is away it is gone here, and expires there.
func (k *Kubernetes) DeleteEndpoint(ctx context.Context, name string) error {
	return k.deleteOwn(ctx, name, k.endpointObjects.remove(ctx, relayOf(ctx).owner, name))
}

// follow keeps the overlays equal to what is in the API until that cannot be followed any more: it was away, or has forgotten
// what happened since it was last heard.
func (k *Kubernetes) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	k.mu.Lock()
	k.again = cancel
	k.mu.Unlock()
	services, err := k.serviceObjects.readAll(ctx)
	if err != nil {
		return err
	}
	endpoints, err := k.endpointObjects.readAll(ctx)
	if err != nil {
		return err
	}
	if err := restoreOwn(ctx, k.shared, k.services, k.serviceObjects.all(), k.serviceObjects.write); err != nil {
		return err
	}
	if err := restoreOwn(ctx, k.shared, k.endpoints, k.endpointObjects.all(), k.endpointObjects.write); err != nil {
		return err
	}
	k.complete()
	both, watching := errgroup.WithContext(ctx)
	both.Go(func() error { return k.serviceObjects.hearFrom(watching, services) })
	both.Go(func() error { return k.endpointObjects.hearFrom(watching, endpoints) })
	err = both.Wait()
	return cmp.Or(context.Cause(ctx), err)
}

// resync has follow begin anew.
func (k *Kubernetes) resync(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.again != nil {
		k.again(why)
	}
}
