package identity

import (
	"context"
	"testing"
	"time"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
)

// What is remembered is bounded, and the latest is among it.
func TestRecent(t *testing.T) {
	t.Parallel()
	var r recent[int, string]
	for i := range 3 * generation {
		if _, ok := r.get(i); ok {
			t.Fatal("known before it was put")
		}
		r.put(i, "x")
		if v, ok := r.get(i); !ok || v != "x" {
			t.Fatal("forgotten at once")
		}
	}
	if n := len(r.young) + len(r.old); n > 2*generation {
		t.Errorf("%d are remembered", n)
	}
}

// A chain that was found good is not, for a while that has passed, and not under another bundle: strangers with the same
// trust domain's name stay strangers (TestStrangersAreRefused), also after one of the right authority came by.
func TestKnownChain(t *testing.T) {
	dir := t.TempDir()
	server, client := source(t, "mesh.test", dir, "/server"), source(t, "mesh.test", dir, "/client")
	target := listenMTLS(t, server.ServerCredentials(), service{request: func(context.Context, *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
		return &connection.Connection{}, nil
	}})
	for range 3 {
		if _, err := dial(t, target, client.DialOptions()...).Request(timeout(t, 10*time.Second), &networkservice.NetworkServiceRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	server.chains.mu.Lock()
	if n := len(server.chains.young); n != 1 {
		t.Errorf("the server knows %d chains, want the client's", n)
	}
	for k := range server.chains.young {
		server.chains.young[k] = time.Now().Add(-time.Second)
	}
	server.chains.mu.Unlock()
	if _, err := dial(t, target, client.DialOptions()...).Request(timeout(t, 10*time.Second), &networkservice.NetworkServiceRequest{}); err != nil {
		t.Errorf("what was remembered has ended, the chain has not: %v", err)
	}
	stranger := source(t, "mesh.test", t.TempDir(), "/client")
	if _, err := dial(t, target, stranger.DialOptions()...).Request(timeout(t, 10*time.Second), &networkservice.NetworkServiceRequest{}); err == nil {
		t.Error("an authority of the same name was accepted")
	}
}
