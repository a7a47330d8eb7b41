package registry

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

func TestServiceLife(t *testing.T) {
	m := newMesh(t)
	one, two := m.source("/one"), m.source("/two")
	r, target := m.serve("unix")
	owner, other, ctx := m.services(target, one), m.services(target, two), m.timeout(20*time.Second)

	watchCtx, cancel := context.WithCancel(ctx)
	watch, err := other.Find(watchCtx, &registryapi.NetworkServiceQuery{NetworkService: &registryapi.NetworkService{Name: "s"}, Watch: true})
	if err != nil {
		t.Fatal(err)
	}

	var header metadata.MD
	s, err := owner.Register(ctx, &registryapi.NetworkService{Name: "s"}, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	if s.Payload != "IP" || len(s.PathIds) != 2 || s.PathIds[0] != one.ID() || len(header.Get("path")) != 1 {
		t.Errorf("got %v, header %v", s, header)
	}
	// The same from another endpoint of the service: let in, told it is its own, and the owner stays.
	same, err := other.Register(ctx, &registryapi.NetworkService{Name: "s", Payload: "IP"})
	if err != nil || same.PathIds[0] != two.ID() {
		t.Errorf("the same by another: %v, %v", same, err)
	}
	if _, err := other.Register(ctx, &registryapi.NetworkService{Name: "s", Payload: "ETHERNET"}); !isKind(err, fault.Denied) {
		t.Errorf("changed by another: %v", err)
	}
	if _, err := other.Unregister(ctx, s); !isKind(err, fault.Denied) {
		t.Errorf("unregistered by another: %v", err)
	}
	if _, err := other.Register(ctx, &registryapi.NetworkService{}); !isKind(err, fault.Invalid) {
		t.Errorf("no name: %v", err)
	}
	if _, err := owner.Register(ctx, &registryapi.NetworkService{Name: "s", Payload: "ETHERNET"}); err != nil {
		t.Fatal(err)
	}
	if got, err := r.FindService(ctx, "s"); err != nil || got.Payload != "ETHERNET" || got.PathIds[0] != one.ID() {
		t.Errorf("stored: %v, %v", got, err)
	}
	if _, err := owner.Unregister(ctx, s); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Unregister(ctx, s); err != nil {
		t.Errorf("unregistered twice: %v", err)
	}
	if _, err := r.FindService(ctx, "s"); !fault.Is(err, fault.NotFound) {
		t.Errorf("after unregister: %v", err)
	}

	for _, want := range []struct {
		payload string
		deleted bool
	}{{"IP", false}, {"ETHERNET", false}, {"ETHERNET", true}} {
		got, err := watch.Recv()
		if err != nil || got.NetworkService.Payload != want.payload || got.Deleted != want.deleted {
			t.Errorf("watch: got %v, %v, want %v", got, err, want)
		}
	}
	cancel()
	if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("watch after cancel: %v", err)
	}
	find, err := owner.Find(ctx, &registryapi.NetworkServiceQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := find.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("find nothing: %v, %v", got, err)
	}
}
