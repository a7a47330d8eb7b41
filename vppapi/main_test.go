package vppapi

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/vppapi/pocketvpp"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pocket is a pocketvpp for the time of a test.
type pocket struct {
	*pocketvpp.Server
	socket string
	// stop ends it without a word to its clients and waits for its end.
	stop func()
}

// newPocket starts one that asks fault before each request. It finds the kernel's interfaces h0, h1, ... in its namespace.
func newPocket(t *testing.T, hosts int, fault func(string) (int32, bool)) *pocket {
	t.Helper()
	cfg := pocketvpp.Config{Socket: filepath.Join(t.TempDir(), "api.sock"), Fault: fault, Logger: slog.New(slog.DiscardHandler)}
	if hosts > 0 {
		cfg.Netns = namespace(t, hosts).Path()
	}
	return startPocket(t, cfg)
}

func startPocket(t *testing.T, cfg pocketvpp.Config) *pocket {
	t.Helper()
	s, err := pocketvpp.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	<-s.Ready()
	return &pocket{s, cfg.Socket, stop}
}

// namespace is a network namespace with the interfaces h0, h1, ..., or the end of a test that may not have one.
func namespace(t *testing.T, hosts int) *lab.Namespace {
	t.Helper()
	n, err := lab.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	err = n.Do(func() error {
		for i := range hosts {
			link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: fmt.Sprint("far", i)}
			link.Name = fmt.Sprint("h", i)
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dial is a session for the time of the test.
func (p *pocket) dial(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(within(t, 10*time.Second), p.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// objects are the wanted ones under their keys.
func objects(list ...Object) map[Key]Object {
	m := make(map[Key]Object)
	for _, o := range list {
		m[o.Key()] = o
	}
	return m
}

// realized are objects as if a dump or an Apply had found them, indexes counted from 1.
func realized(list ...Object) Realized {
	r := make(Realized)
	for i, o := range list {
		e := Entry{Object: o}
		if o.Key().Kind == KindInterface {
			e.Index = uint32(i + 1)
		}
		r[o.Key()] = e
	}
	return r
}
