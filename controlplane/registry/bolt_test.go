package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, file string) *Bolt {
	t.Helper()
	b, err := OpenBolt(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newStore(t *testing.T) *Bolt {
	t.Helper()
	b := open(t, filepath.Join(t.TempDir(), "registry.db"))
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func names[T entry](list []T, err error) []string {
	if err != nil {
		return []string{err.Error()}
	}
	var names []string
	for _, v := range list {
		names = append(names, v.GetName())
	}
	return names
}

func endpoint(name string, expires time.Time) *registryapi.NetworkServiceEndpoint {
	return &registryapi.NetworkServiceEndpoint{Name: name, ExpirationTime: timestamppb.New(expires)}
}

func TestBoltKeeps(t *testing.T) {
	file, ctx := filepath.Join(t.TempDir(), "registry.db"), context.Background()
	b := open(t, file)
	service := &registryapi.NetworkService{Name: "b", Payload: "IP", Matches: []*registryapi.Match{{Fallthrough: true}}}
	later := time.Now().Add(time.Hour)
	for _, err := range []error{
		b.PutService(ctx, service), b.PutService(ctx, &registryapi.NetworkService{Name: "a"}), b.PutService(ctx, &registryapi.NetworkService{Name: "gone"}),
		b.DeleteService(ctx, "gone"), b.DeleteService(ctx, "never there"),
		b.PutEndpoint(ctx, endpoint("e2", later)), b.PutEndpoint(ctx, endpoint("e1", later)),
		b.PutEndpoint(ctx, endpoint("e1", later.Add(time.Hour))), b.DeleteEndpoint(ctx, "never there"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.PutService(ctx, &registryapi.NetworkService{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no name: %v", err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
	if _, err := OpenBolt(file); !fault.Is(err, fault.Conflict) {
		t.Errorf("opened twice: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.PutService(ctx, service); !fault.Is(err, fault.Unavailable) {
		t.Errorf("put after close: %v", err)
	}

	b = open(t, file)
	defer func() { _ = b.Close() }()
	if got := names(b.Services(ctx)); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("services after reopening: %v", got)
	}
	if got := names(b.Endpoints(ctx)); !slices.Equal(got, []string{"e1", "e2"}) {
		t.Errorf("endpoints after reopening: %v", got)
	}
	if services, _ := b.Services(ctx); !proto.Equal(services[1], service) {
		t.Errorf("got %v, want %v", services[1], service)
	}
}

func TestBoltDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registry.db")
	if err := os.WriteFile(file, []byte("this is not a database, but it is long enough to look at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := OpenBolt(file); err == nil {
		_ = b.Close()
		t.Error("opened")
	}
}

// Endpoints go at their time, in order, with an event; a refresh moves the time; what expired while the store was closed goes
// when it opens.
func TestBoltExpiry(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registry.db")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b := open(t, file)
		start := time.Now()
		for name, after := range map[string]time.Duration{"soon": time.Minute, "late": time.Hour, "refreshed": time.Minute, "forgotten": 3 * time.Hour} {
			if err := b.PutEndpoint(ctx, endpoint(name, start.Add(after))); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.PutEndpoint(ctx, endpoint("refreshed", start.Add(2*time.Minute))); err != nil {
			t.Fatal(err)
		}
		if err := b.PutEndpoint(ctx, &registryapi.NetworkServiceEndpoint{Name: "forever"}); err != nil {
			t.Fatal(err)
		}
		var log []string
		var watch sync.WaitGroup
		watch.Go(func() {
			_ = b.WatchEndpoints(ctx, func() error { return nil }, func(e Event[*registryapi.NetworkServiceEndpoint]) error {
				if e.Deleted {
					log = append(log, fmt.Sprintf("%s %v", e.Value.Name, time.Since(start)))
				}
				return nil
			})
		})
		synctest.Wait()
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if want := []string{"soon 1m0s", "refreshed 2m0s", "late 1h0m0s"}; !slices.Equal(log, want) {
			t.Errorf("expired %v, want %v", log, want)
		}
		if got := names(b.Endpoints(ctx)); !slices.Equal(got, []string{"forever", "forgotten"}) {
			t.Errorf("left: %v", got)
		}
		cancel()
		watch.Wait()
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		b = open(t, file)
		synctest.Wait()
		if got := names(b.Endpoints(ctx)); !slices.Equal(got, []string{"forever"}) {
			t.Errorf("after a day: %v", got)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A watcher sees what there is, ready, and then every change once and in order, while many write at once.
func TestBoltWatch(t *testing.T) {
	b, ctx := newStore(t), context.Background()
	for _, name := range []string{"y", "x"} {
		if err := b.PutService(ctx, &registryapi.NetworkService{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	const writers, writes = 8, 20
	var log []string
	ready := make(chan struct{})
	end := errors.New("seen all")
	done := make(chan error, 1)
	go func() {
		done <- b.WatchServices(ctx, func() error { log = append(log, "ready"); close(ready); return nil }, func(e Event[*registryapi.NetworkService]) error {
			text := e.Value.Name + " " + e.Value.Payload
			if e.Deleted {
				text += " deleted"
			}
			if log = append(log, text); e.Value.Name == "end" {
				return end
			}
			return nil
		})
	}()
	<-ready
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range writes {
				if err := b.PutService(ctx, &registryapi.NetworkService{Name: fmt.Sprintf("w%d", w), Payload: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, err := range []error{b.DeleteService(ctx, "x"), b.DeleteService(ctx, "unknown"), b.PutService(ctx, &registryapi.NetworkService{Name: "end"})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; !errors.Is(err, end) {
		t.Fatal(err)
	}
	if want := []string{"x ", "y ", "ready"}; !slices.Equal(log[:3], want) {
		t.Errorf("first: %q, want %q", log[:3], want)
	}
	if n := len(log); n != 3+writers*writes+2 || log[n-2] != "x  deleted" {
		t.Errorf("%d events, the last %q", n, log[n-2:])
	}
	next := map[string]int{}
	for _, line := range log[3 : len(log)-2] {
		var name string
		var i int
		if _, err := fmt.Sscan(line, &name, &i); err != nil || next[name] != i {
			t.Errorf("%q: want number %d", line, next[name])
		}
		next[name]++
	}
}

func TestBoltDropsSlowWatchers(t *testing.T) {
	b, ctx := newStore(t), context.Background()
	ready, proceed, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- b.WatchServices(ctx, func() error { close(ready); <-proceed; return nil }, func(Event[*registryapi.NetworkService]) error { return nil })
	}()
	<-ready
	for i := range backlog + 1 {
		b.services.replace("s", []*registryapi.NetworkService{{Name: "s", Payload: fmt.Sprint(i)}})
	}
	close(proceed)
	if err := <-done; !fault.Is(err, fault.Exhausted) {
		t.Errorf("got %v, want exhausted", err)
	}
}

func TestBoltCloseEndsWatches(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "registry.db"))
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- b.WatchEndpoints(context.Background(), func() error { close(ready); return nil }, func(Event[*registryapi.NetworkServiceEndpoint]) error { return nil })
	}()
	<-ready
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}
