package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// DefaultEtcdPrefix is what our keys in etcd begin with unless EtcdConfig says otherwise.
const DefaultEtcdPrefix = "/highwire"

// EtcdConfig says where an etcd is.
type EtcdConfig struct {
	// Endpoints are URLs of its members: http://host:port, or https.
	Endpoints []string
	// Prefix of our keys, empty for DefaultEtcdPrefix. Agents with the same one share a registry.
	Prefix string
	// TLS of https endpoints, nil for the system's authorities.
	TLS *tls.Config

	probe time.Duration // 0 for probeTime
}

// probeTime is how long another etcd at the address of the present one may go unnoticed.
const probeTime = 10 * time.Second

// Etcd is a Store in an etcd that many nodes share: one key per entry, <prefix>/services/<name> and <prefix>/endpoints/<name>.
// Endpoints have a lease each, so they go when they expire, whatever became of the agent. What is there is watched and read
// from memory. An entry is written only over the one that was seen, so that two nodes cannot both own a name. While etcd is
// away, this node's registrations go on here and are written when it is back.
type Etcd struct {
	*shared
	client *clientv3.Client
	prefix string
	every  time.Duration // of probe

	mu       sync.Mutex
	cluster  uint64                  // which etcd is followed
	revision int64                   // up to where, at least
	versions map[string]version      // by key
	again    context.CancelCauseFunc // ends the present round of follow
}

// version is the last change of a key that was seen.
type version struct {
	rev  int64
	gone bool
}

var _ Store = (*Etcd)(nil)

const (
	servicesDir  = "/services/"
	endpointsDir = "/endpoints/"
)

// OpenEtcd follows the etcd until Close, whether it can be reached now or later.
func OpenEtcd(c EtcdConfig) (*Etcd, error) {
	if len(c.Endpoints) == 0 {
		return nil, fault.New(fault.Invalid, "etcd: no endpoints")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Logger: zap.NewNop(), MaxUnaryRetries: 2,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		})},
	})
	if err != nil {
		return nil, fault.New(fault.Invalid, "etcd %s: %w", strings.Join(c.Endpoints, " "), err)
	}
	e := &Etcd{
		shared: newShared(slog.With("etcd", strings.Join(c.Endpoints, " "))), client: client, versions: map[string]version{},
		prefix: strings.TrimRight(cmp.Or(c.Prefix, DefaultEtcdPrefix), "/"), every: cmp.Or(c.probe, probeTime),
	}
	e.start(e.follow)
	return e, nil
}

// Close ends watches. What this node registered expires.
func (e *Etcd) Close() error { return errors.Join(e.shared.Close(), e.client.Close()) }

// PutService writes s. While etcd is away it is kept here and written later.
func (e *Etcd) PutService(ctx context.Context, s *registryapi.NetworkService) error {
	return putOwn(ctx, e.shared, e.services, s, etcdWriter(e, e.services, servicesDir), e.resync)
}

// DeleteService removes the service of the name, if there is one.
func (e *Etcd) DeleteService(ctx context.Context, name string) error {
	return deleteEtcd(ctx, e, e.services, servicesDir, name)
}

// PutEndpoint writes v with a lease until it expires. While etcd is away it is kept here and written later.
func (e *Etcd) PutEndpoint(ctx context.Context, v *registryapi.NetworkServiceEndpoint) error {
	return putOwn(ctx, e.shared, e.endpoints, v, etcdWriter(e, e.endpoints, endpointsDir), e.resync)
}

// DeleteEndpoint removes the endpoint of the name, if there is one. While etcd is away it is gone here, and expires there.
func (e *Etcd) DeleteEndpoint(ctx context.Context, name string) error {
	return e.deleteOwn(ctx, name, deleteEtcd(ctx, e, e.endpoints, endpointsDir, name))
}

func etcdWriter[T entry](e *Etcd, o *overlay[T], dir string) writer[T] {
	return func(ctx context.Context, by string, v T) error { return writeEtcd(ctx, e, o, dir, by, v) }
}

// writeEtcd puts v in the place of what was last seen there.
func writeEtcd[T entry](ctx context.Context, e *Etcd, o *overlay[T], dir, by string, v T) error {
	data, err := proto.Marshal(v)
	if err != nil {
		return fault.New(fault.Invalid, "%s: %w", v.GetName(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	var options []clientv3.OpOption
	if t, ok := expiration(v); ok {
		lease, err := e.client.Grant(ctx, max(1, int64(math.Ceil(time.Until(t).Seconds()))))
		if err != nil {
			return etcdError(err)
		}
		options = append(options, clientv3.WithLease(lease.ID))
	}
	key := e.prefix + dir + v.GetName()
	return changeEtcd(ctx, e, o, dir, v.GetName(), by, clientv3.OpPut(key, string(data), options...),
		func() { o.hear(Event[T]{Value: v}) })
}

func deleteEtcd[T entry](ctx context.Context, e *Etcd, o *overlay[T], dir, name string) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	return changeEtcd(ctx, e, o, dir, name, relayOf(ctx).owner, clientv3.OpDelete(e.prefix+dir+name), func() { o.forget(name) })
}

// changeEtcd does op, which is about the key of the name, if nobody has changed that key since it was last seen, and its owner
// is by; done says what that did. If somebody has, what is there now is seen and the error is errChanged.
func changeEtcd[T entry](ctx context.Context, e *Etcd, o *overlay[T], dir, name, by string, op clientv3.Op, done func()) error {
	key := e.prefix + dir + name
	e.mu.Lock()
	seen, before := e.versions[key], e.revision
	there, taken := o.at(name)
	e.mu.Unlock()
	switch {
	case taken && by != "" && owner(o.ids(there)) != by:
		return errChanged
	case seen.gone:
		seen.rev = 0
	}
	answer, err := e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", seen.rev)).Then(op).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return etcdError(err)
	}
	e.answered(answer.Header.ClusterId, answer.Header.Revision, before)
	if answer.Succeeded {
		e.see(key, version{answer.Header.Revision, op.IsDelete()}, done)
		return nil
	}
	current := answer.Responses[0].GetResponseRange().Kvs
	if len(current) == 0 {
		e.see(key, version{answer.Header.Revision, true}, func() { o.lost(name) })
		return errChanged
	}
	if v, ok := decode(e, o.kind, current[0]); ok {
		e.see(key, version{rev: current[0].ModRevision}, func() { o.hear(Event[T]{Value: v}) })
	}
	return errChanged
}

func decode[T entry](e *Etcd, k kind[T], kv *mvccpb.KeyValue) (T, bool) {
	v := k.empty()
	if err := proto.Unmarshal(kv.Value, v); err != nil {
		e.log.Warn("unreadable; it is left alone", "key", string(kv.Key), "error", err)
		return v, false
	}
	return v, strings.HasSuffix(string(kv.Key), "/"+v.GetName())
}

// follow keeps the overlays equal to what is in etcd until that cannot be followed any more: it was away for so long that it
// has forgotten what happened since, or is another.
func (e *Etcd) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.services.begin()
	e.endpoints.begin()
	asking, done := context.WithTimeout(ctx, peerTime)
	defer done()
	all, err := e.client.Get(asking, e.prefix+"/", clientv3.WithPrefix())
	if err != nil {
		return etcdError(err)
	}
	e.mu.Lock()
	e.cluster, e.revision, e.versions, e.again = all.Header.ClusterId, all.Header.Revision, map[string]version{}, cancel
	e.mu.Unlock()
	if err := restoreOwn(ctx, e.shared, e.services, entries(e, e.services, servicesDir, all.Kvs), etcdWriter(e, e.services, servicesDir)); err != nil {
		return err
	}
	if err := restoreOwn(ctx, e.shared, e.endpoints, entries(e, e.endpoints, endpointsDir, all.Kvs), etcdWriter(e, e.endpoints, endpointsDir)); err != nil {
		return err
	}
	e.complete()
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel(nil)
	probing.Go(func() { e.probe(ctx) })
	watch := e.client.Watch(clientv3.WithRequireLeader(ctx), e.prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(all.Header.Revision+1))
	for r := range watch {
		if err := r.Err(); err != nil {
			return etcdError(err)
		}
		for _, event := range r.Events {
			name, dir := e.split(event.Kv.Key)
			switch dir {
			case servicesDir:
				hearEtcd(e, e.services, name, event)
			case endpointsDir:
				hearEtcd(e, e.endpoints, name, event)
			}
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return fault.New(fault.Unavailable, "etcd ended the watch")
}

// probe asks now and then who answers. A watch that goes on at an etcd which lost its data, or is a new one at the same address, waits
// without a word for a revision that is far away.
func (e *Etcd) probe(ctx context.Context) {
	tick := time.NewTicker(e.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		e.mu.Lock()
		before := e.revision
		e.mu.Unlock()
		asking, done := context.WithTimeout(ctx, e.every)
		if answer, err := e.client.Get(asking, e.prefix, clientv3.WithCountOnly()); err == nil {
			e.answered(answer.Header.ClusterId, answer.Header.Revision, before)
		}
		done()
	}
}

// split takes the prefix from a key.
func (e *Etcd) split(key []byte) (name, dir string) {
	rest := strings.TrimPrefix(string(key), e.prefix)
	for _, dir := range []string{servicesDir, endpointsDir} {
		if name, ok := strings.CutPrefix(rest, dir); ok {
			return name, dir
		}
	}
	return rest, ""
}

func hearEtcd[T entry](e *Etcd, o *overlay[T], name string, event *clientv3.Event) {
	key, rev := string(event.Kv.Key), event.Kv.ModRevision
	if event.Type == clientv3.EventTypeDelete {
		e.see(key, version{rev, true}, func() {
			if v, ok := o.at(name); ok {
				o.hear(Event[T]{Value: v, Deleted: true})
			}
			delete(e.versions, key) // nothing older comes any more
		})
		return
	}
	if v, ok := decode(e, o.kind, event.Kv); ok {
		e.see(key, version{rev: rev}, func() { o.hear(Event[T]{Value: v}) })
	}
}

// entries are those of one kind among the keys.
func entries[T entry](e *Etcd, o *overlay[T], dir string, all []*mvccpb.KeyValue) []T {
	var entries []T
	for _, kv := range all {
		if _, of := e.split(kv.Key); of != dir {
			continue
		}
		if v, ok := decode(e, o.kind, kv); ok {
			e.see(string(kv.Key), version{rev: kv.ModRevision}, func() { entries = append(entries, v) })
		}
	}
	return entries
}

// see takes a change of a key in, by fn, unless a later one was seen already: what we write is seen at once, and what the watch
// tells of the time before comes late.
func (e *Etcd) see(key string, v version, fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision = max(e.revision, v.rev)
	if v.rev >= e.versions[key].rev {
		e.versions[key] = v
		fn()
	}
}

// answered looks whether the etcd that answered is the one that is followed, and did not lose what it had before it was asked.
func (e *Etcd) answered(cluster uint64, revision, before int64) {
	e.mu.Lock()
	strange := e.again != nil && (cluster != e.cluster || revision < before)
	e.mu.Unlock()
	if strange {
		e.resync(fault.New(fault.Unavailable, "this is another etcd than before, or one that lost its data"))
	}
}

// resync has follow begin anew.
func (e *Etcd) resync(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.again != nil {
		e.again(why)
	}
}

func etcdError(err error) error {
	return fault.New(fault.KindOr(err, fault.Unavailable), "etcd: %w", err)
}
