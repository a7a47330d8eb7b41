package client

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"highwire/cmd/lab"
	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
)

// loopback is a connection of which both sides are the namespace's loopback.
func loopback(src, dst []string) *connection.Connection {
	return &connection.Connection{Context: &connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{SrcIpAddrs: src, DstIpAddrs: dst}}}
}

// Trap 14: pings need net.ipv4.ping_group_range in the client's namespace; without it one is told. With it, the other side is
// alive until it answers no more.
func TestTrap14Liveness(t *testing.T) {
	ns, err := lab.New()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c := &Client{namespace: ns.File()}
	both := loopback([]string{"127.0.0.2/32", "::1/128"}, []string{"127.0.0.3/32", "::1/128"})
	if _, err := c.newPinger(both); err == nil || !strings.Contains(err.Error(), "ping_group_range") {
		t.Fatalf("nobody may ping here: %v", err)
	}
	if err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	p, err := c.newPinger(both)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if len(p.pairs) != 2 {
		t.Errorf("%d pairs, want one of each family", len(p.pairs))
	}
	for range 3 {
		if !p.ping(t.Context(), time.Now().Add(30*time.Second)) {
			t.Fatal("the other side does not answer")
		}
	}
	died := make(chan bool, 1)
	go func() { died <- p.watch(t.Context(), 10*time.Millisecond, 300*time.Millisecond) }()
	if err := ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetDown(lo)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case dead := <-died:
		if !dead {
			t.Error("the watch ended for another reason")
		}
	case <-time.After(60 * time.Second):
		t.Fatal("nobody noticed that the other side answers no more")
	}
}

// A connection without addresses counts as alive, and a client in its own namespace needs no right to enter it.
func TestNothingToPing(t *testing.T) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	p, err := (&Client{namespace: own}).newPinger(loopback([]string{"10.0.0.1/32"}, []string{"fd00::1/128"}))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if !p.ping(t.Context(), time.Now()) {
		t.Error("dead without an address")
	}
}
