package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// maxBatch bounds how many writes share one transaction.
const maxBatch = 256

// Bolt is a Store in one file. Reads come from memory. One goroutine writes: all writes that wait go into one transaction,
// and it removes endpoints when they expire.
type Bolt struct {
	db        *bolt.DB
	services  *table[*registryapi.NetworkService]
	endpoints *table[*registryapi.NetworkServiceEndpoint]

	writes chan write
	stop   context.CancelFunc
	closed context.Context
	done   sync.WaitGroup
}

// write is one change: apply puts it into the transaction, publish makes it seen once that is committed.
type write struct {
	apply   func(tx *bolt.Tx) error
	publish func()
	result  chan error
}

var _ Store = (*Bolt)(nil)

// OpenBolt opens the store in file, made readable for its owner only where it does not exist. A file in use by another
// process is fault.Conflict; entries that cannot be read are fault.Invalid.
func OpenBolt(file string) (*Bolt, error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{Timeout: time.Second})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fault.New(fault.Conflict, "registry %s is in use by another process", file)
	case err != nil:
		return nil, fault.New(fault.KindOf(err), "registry %s: %w", file, err)
	}
	b := &Bolt{db: db, writes: make(chan write)}
	b.closed, b.stop = context.WithCancel(context.Background())
	b.services = newTable[*registryapi.NetworkService](b, "services")
	b.endpoints = newTable[*registryapi.NetworkServiceEndpoint](b, "endpoints")
	err = db.Update(func(tx *bolt.Tx) error {
		return errors.Join(
			b.services.load(tx, func() *registryapi.NetworkService { return new(registryapi.NetworkService) }),
			b.endpoints.load(tx, func() *registryapi.NetworkServiceEndpoint { return new(registryapi.NetworkServiceEndpoint) }))
	})
	if err != nil {
		_ = db.Close()
		return nil, fault.New(fault.Invalid, "registry %s is damaged: %w; remove it, services and endpoints will register again", file, err)
	}
	b.done.Go(b.run)
	return b, nil
}

// Close ends watches and writes and closes the file.
func (b *Bolt) Close() error {
	b.stop()
	b.done.Wait()
	return b.db.Close()
}

// PutService stores s under its name.
func (b *Bolt) PutService(ctx context.Context, s *registryapi.NetworkService) error {
	return b.services.put(ctx, s)
}

// DeleteService removes the service of the name, if there is one.
func (b *Bolt) DeleteService(ctx context.Context, name string) error {
	return b.services.delete(ctx, name)
}

// Services are all services in name order.
func (b *Bolt) Services(context.Context) ([]*registryapi.NetworkService, error) {
	return b.services.list(), nil
}

// WatchServices follows the services; a watcher too slow for the changes gets fault.Exhausted.
func (b *Bolt) WatchServices(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkService]) error) error {
	return b.services.watch(ctx, ready, fn)
}

// PutEndpoint stores e under its name until it expires.
func (b *Bolt) PutEndpoint(ctx context.Context, e *registryapi.NetworkServiceEndpoint) error {
	return b.endpoints.put(ctx, e)
}

// DeleteEndpoint removes the endpoint of the name, if there is one.
func (b *Bolt) DeleteEndpoint(ctx context.Context, name string) error {
	return b.endpoints.delete(ctx, name)
}

// Endpoints are all endpoints in name order.
func (b *Bolt) Endpoints(context.Context) ([]*registryapi.NetworkServiceEndpoint, error) {
	return b.endpoints.list(), nil
}

// WatchEndpoints follows the endpoints; a watcher too slow for the changes gets fault.Exhausted.
func (b *Bolt) WatchEndpoints(ctx context.Context, ready func() error, fn func(Event[*registryapi.NetworkServiceEndpoint]) error) error {
	return b.endpoints.watch(ctx, ready, fn)
}

func (b *Bolt) run() {
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	for {
		var batch []write
		select {
		case <-b.closed.Done():
			return
		case w := <-b.writes:
			batch = b.waiting(w)
		case <-expiry.C:
			batch = b.expired(time.Now())
		}
		if err := b.commit(batch); err != nil && batch[0].result == nil {
			// Nobody waits for an expiry; try that again soon.
			expiry.Reset(time.Second)
			continue
		}
		if next, ok := b.nextExpiry(); ok {
			expiry.Reset(time.Until(next))
		} else {
			expiry.Stop()
		}
	}
}

// waiting collects the writes that are there already.
func (b *Bolt) waiting(first write) []write {
	batch := []write{first}
	for len(batch) < maxBatch {
		select {
		case w := <-b.writes:
			batch = append(batch, w)
		default:
			return batch
		}
	}
	return batch
}

func (b *Bolt) commit(batch []write) error {
	if len(batch) == 0 {
		return nil
	}
	err := b.db.Update(func(tx *bolt.Tx) error {
		for _, w := range batch {
			if err := w.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		err = fault.New(fault.Unavailable, "registry %s: %w", b.db.Path(), err)
	}
	for _, w := range batch {
		if err == nil {
			w.publish()
		}
		if w.result != nil {
			w.result <- err
		}
	}
	return err
}

func (b *Bolt) expired(now time.Time) []write {
	var batch []write
	for _, e := range b.endpoints.list() {
		if e.ExpirationTime != nil && !e.ExpirationTime.AsTime().After(now) && len(batch) < maxBatch {
			batch = append(batch, b.endpoints.deletion(e.Name))
		}
	}
	return batch
}

func (b *Bolt) nextExpiry() (next time.Time, ok bool) {
	for _, e := range b.endpoints.list() {
		if t := e.ExpirationTime; t != nil && (!ok || t.AsTime().Before(next)) {
			next, ok = t.AsTime(), true
		}
	}
	return next, ok
}

// submit hands a write to run and waits until it is on disk. A write once accepted is finished whatever becomes of ctx, so
// that the caller knows what is stored.
func (b *Bolt) submit(ctx context.Context, w write) error {
	w.result = make(chan error, 1)
	select {
	case b.writes <- w:
		return <-w.result
	case <-b.closed.Done():
		return fault.New(fault.Unavailable, "registry %s is closed", b.db.Path())
	case <-ctx.Done():
		return fmt.Errorf("registry %s: %w", b.db.Path(), ctx.Err())
	}
}

// table is one bucket of the file and its copy in memory.
type table[T entry] struct {
	*mirror[T]
	store  *Bolt
	bucket []byte
}

func newTable[T entry](store *Bolt, bucket string) *table[T] {
	return &table[T]{mirror: newMirror[T](store.closed.Done()), store: store, bucket: []byte(bucket)}
}

func (t *table[T]) load(tx *bolt.Tx, empty func() T) error {
	bucket, err := tx.CreateBucketIfNotExists(t.bucket)
	if err != nil {
		return err
	}
	return bucket.ForEach(func(name, data []byte) error { // in the order of names
		v := empty()
		if err := proto.Unmarshal(data, v); err != nil {
			return fmt.Errorf("%s %q: %w", t.bucket, name, err)
		}
		t.sorted = append(t.sorted, v)
		return nil
	})
}

func (t *table[T]) put(ctx context.Context, v T) error {
	name := v.GetName()
	if name == "" || len(name) > bolt.MaxKeySize {
		return fault.New(fault.Invalid, "%s: name of %d bytes", t.bucket, len(name))
	}
	data, err := proto.Marshal(v)
	if err != nil {
		return fault.New(fault.Invalid, "%s %q: %w", t.bucket, name, err)
	}
	return t.store.submit(ctx, write{
		apply:   func(tx *bolt.Tx) error { return tx.Bucket(t.bucket).Put([]byte(name), data) },
		publish: func() { t.replace(name, []T{v}) },
	})
}

func (t *table[T]) delete(ctx context.Context, name string) error {
	return t.store.submit(ctx, t.deletion(name))
}

func (t *table[T]) deletion(name string) write {
	return write{
		apply:   func(tx *bolt.Tx) error { return tx.Bucket(t.bucket).Delete([]byte(name)) },
		publish: func() { t.replace(name, nil) },
	}
}
