package registry

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// stores are all implementations of Store; each gives a new and empty one.
var stores = map[string]func(t *testing.T) Store{
	"bolt":       func(t *testing.T) Store { return open(t, filepath.Join(t.TempDir(), "registry.db")) },
	"etcd":       func(t *testing.T) Store { return startEtcd(t).open() },
	"kubernetes": func(t *testing.T) Store { return startKubernetes(t).open() },
	"remote": func(t *testing.T) Store {
		m := newMesh(t)
		h := newHub(m)
		s := OpenRemote(Peer{Target: h.address, Options: m.source("/node").DialOptions()})
		t.Cleanup(func() { _ = s.Close() })
		follows(t, s)
		return s
	},
}

// TestStores holds every Store to the contract.
func TestStores(t *testing.T) {
	for name, fresh := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fresh(t)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			t.Run("keeps", func(t *testing.T) { storeKeeps(ctx, t, s) })
			t.Run("expires", func(t *testing.T) { storeExpires(ctx, t, s) })
			t.Run("watch", func(t *testing.T) { storeWatch(ctx, t, s) })
			t.Run("close", func(t *testing.T) { storeCloses(ctx, t, s) })
		})
	}
}

func storeKeeps(ctx context.Context, t *testing.T, s Store) {
	service := func(name, payload string) *registryapi.NetworkService {
		return &registryapi.NetworkService{Name: name, Payload: payload, Matches: []*registryapi.Match{{Fallthrough: true}}}
	}
	lasting := func(name, url string) *registryapi.NetworkServiceEndpoint {
		return &registryapi.NetworkServiceEndpoint{
			Name: name, NetworkServiceNames: []string{"b"}, Url: url, ExpirationTime: inSeconds(50),
			NetworkServiceLabels: map[string]*registryapi.NetworkServiceLabels{"b": {Labels: map[string]string{"k": "v"}}},
		}
	}
	for _, err := range []error{
		s.PutService(ctx, service("b", "ETHERNET")), s.PutService(ctx, service("a", "IP")), s.PutService(ctx, service("gone", "IP")),
		s.PutService(ctx, service("name/with slash", "IP")), s.DeleteService(ctx, "gone"), s.DeleteService(ctx, "never there"),
		s.PutService(ctx, service("a", "ETHERNET")),
		s.PutEndpoint(ctx, lasting("e2", "tcp://127.0.0.1:1")), s.PutEndpoint(ctx, lasting("e1", "tcp://127.0.0.1:1")),
		s.PutEndpoint(ctx, lasting("e1", "tcp://127.0.0.1:2")), s.PutEndpoint(ctx, lasting("e3", "tcp://127.0.0.1:3")),
		s.DeleteEndpoint(ctx, "e3"), s.DeleteEndpoint(ctx, "never there"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"service": s.PutService(ctx, &registryapi.NetworkService{}), "endpoint": s.PutEndpoint(ctx, &registryapi.NetworkServiceEndpoint{}),
	} {
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s without a name: %v", what, err)
		}
	}
	// What was put is there at once; only what was there before may be seen a little longer.
	seen(ctx, t, s.WatchServices, func() bool {
		list, err := s.Services(ctx)
		a, ok := byName(list, "a")
		return slices.Equal(names(list, err), []string{"a", "b", "name/with slash"}) && ok && a.Payload == "ETHERNET" && a.Matches[0].Fallthrough
	})
	list, err := s.Endpoints(ctx)
	if got := names(list, err); !slices.Equal(got, []string{"e1", "e2"}) {
		t.Errorf("endpoints: %v", got)
	}
	if e, ok := byName(list, "e1"); !ok || e.Url != "tcp://127.0.0.1:2" || e.NetworkServiceLabels["b"].GetLabels()["k"] != "v" {
		t.Errorf("put twice: %v", e)
	}
}

// seen waits until done, looking after every event of the watch.
func seen[T entry](ctx context.Context, t *testing.T, watch func(context.Context, func() error, func(Event[T]) error) error, done func() bool) {
	t.Helper()
	err := watch(ctx, func() error { return stopIf(done()) }, func(Event[T]) error { return stopIf(done()) })
	if !errors.Is(err, errSeen) {
		t.Fatalf("not seen: %v", err)
	}
}

func storeExpires(ctx context.Context, t *testing.T, s Store) {
	e := &registryapi.NetworkServiceEndpoint{Name: "brief", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1", ExpirationTime: inSeconds(4)}
	if err := s.PutEndpoint(ctx, e); err != nil {
		t.Fatal(err)
	}
	var there bool
	err := s.WatchEndpoints(ctx, func() error { return nil }, func(event Event[*registryapi.NetworkServiceEndpoint]) error {
		if event.Value.Name == "brief" {
			there = there || !event.Deleted
			return stopIf(event.Deleted)
		}
		return nil
	})
	if !errors.Is(err, errSeen) || !there {
		t.Errorf("the end was not seen: %v; there before: %v", err, there)
	}
	if early := time.Until(e.ExpirationTime.AsTime()); early > 0 {
		t.Errorf("gone %v before its time", early)
	}
}

// A watcher sees what there is, ready, and then every change in order, while many write at once. A store that many share may
// leave out what was changed again meanwhile.
func storeWatch(ctx context.Context, t *testing.T, s Store) {
	const writers, writes = 4, 10
	present, err := s.Services(ctx)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]int{}
	var before []string
	var deleted bool
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.WatchServices(ctx, func() error { close(ready); return nil }, func(e Event[*registryapi.NetworkService]) error {
			select {
			case <-ready:
			default:
				before = append(before, e.Value.Name)
				return nil
			}
			if strings.HasPrefix(e.Value.Name, "w") {
				i := len(e.Value.Matches)
				if i < last[e.Value.Name] {
					t.Errorf("%s went from %d back to %d", e.Value.Name, last[e.Value.Name], i)
				}
				last[e.Value.Name] = i
			}
			deleted = deleted || e.Deleted && e.Value.Name == "a"
			all := deleted && len(last) == writers
			for _, n := range last {
				all = all && n == writes
			}
			return stopIf(all)
		})
	}()
	<-ready
	if want := names(present, nil); !slices.Equal(before, want) {
		t.Errorf("first %q, want %q", before, want)
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			v := &registryapi.NetworkService{Name: fmt.Sprintf("w%d", w), Payload: "IP"}
			for range writes {
				v = proto.CloneOf(v)
				v.Matches = append(v.Matches, &registryapi.Match{})
				if err := s.PutService(ctx, v); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := s.DeleteService(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, errSeen) {
		t.Fatalf("%v; seen %v", err, last)
	}
}

func storeCloses(ctx context.Context, t *testing.T, s Store) {
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.WatchEndpoints(ctx, func() error { close(ready); return nil }, func(Event[*registryapi.NetworkServiceEndpoint]) error { return nil })
	}()
	<-ready
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("the watch ended with %v, want unavailable", err)
	}
}
