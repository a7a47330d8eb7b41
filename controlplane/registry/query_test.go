package registry

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	registryapi "highwire/controlplane/api/registry"
)

// Queries over a socket (§3.8): every field that is set must fit, the URL as a part of the endpoint's; the stream ends by itself
// when nothing is to be watched, and not before its client goes when something is.
func TestQueries(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	_, target := m.serve("tcp")
	ctx, nse := m.timeout(time.Minute), m.source("/nse")
	client, services := m.endpoints(target, nse), m.services(target, nse)
	in := func(service string, l labels) map[string]*registryapi.NetworkServiceLabels {
		return map[string]*registryapi.NetworkServiceLabels{service: {Labels: l}}
	}
	var first *registryapi.NetworkServiceEndpoint
	for _, e := range []*registryapi.NetworkServiceEndpoint{
		{Name: "one", NetworkServiceNames: []string{"s", "t"}, Url: "tcp://127.0.0.1:5001", NetworkServiceLabels: in("s", labels{"app": "fw", "zone": "a"})},
		{Name: "one-more", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:50012", NetworkServiceLabels: in("s", labels{"app": "vpn"})},
		{Name: "forwarder-1", NetworkServiceNames: []string{"forwarder"}, Url: "inode://4/56", NetworkServiceLabels: in("forwarder", labels{"p2p": "true"})},
	} {
		out, err := client.Register(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		if out.Url != e.Url || out.Name != e.Name {
			t.Errorf("answered %s at %s for %s at %s", out.Name, out.Url, e.Name, e.Url)
		}
		if first == nil {
			first = out
		}
	}
	for _, c := range []struct {
		query *registryapi.NetworkServiceEndpoint
		want  string
	}{
		{nil, "forwarder-1 one one-more"},
		{&registryapi.NetworkServiceEndpoint{Name: "one"}, "one"},
		{&registryapi.NetworkServiceEndpoint{Name: "on"}, ""},
		{&registryapi.NetworkServiceEndpoint{Url: "tcp://127.0.0.1:5001"}, "one one-more"},
		{&registryapi.NetworkServiceEndpoint{Url: "inode://"}, "forwarder-1"},
		{&registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"s"}}, "one one-more"},
		{&registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"t", "s"}}, "one"},
		{&registryapi.NetworkServiceEndpoint{NetworkServiceNames: []string{"forwarder"}, NetworkServiceLabels: in("forwarder", labels{"p2p": "true"})}, "forwarder-1"},
		{&registryapi.NetworkServiceEndpoint{NetworkServiceLabels: in("s", labels{"zone": "a"})}, "one"},
		{&registryapi.NetworkServiceEndpoint{ExpirationTime: first.ExpirationTime, Name: "one"}, "one"},
		{&registryapi.NetworkServiceEndpoint{ExpirationTime: inSeconds(1), Name: "one"}, ""},
	} {
		stream, err := client.Find(ctx, &registryapi.NetworkServiceEndpointQuery{NetworkServiceEndpoint: c.query})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			answer, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, answer.NetworkServiceEndpoint.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: found %v, want %s", c.query, got, c.want)
		}
	}

	// A watch on nothing begins, says so, and hears of what comes later.
	watch, err := services.Find(ctx, &registryapi.NetworkServiceQuery{NetworkService: &registryapi.NetworkService{Name: "late", Payload: "IP"}, Watch: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*registryapi.NetworkService{{Name: "other"}, {Name: "late", Payload: "ETHERNET"}, {Name: "late", Payload: "IP"}} {
		if _, err := services.Register(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := watch.Recv(); err != nil || got.NetworkService.Name != "late" || got.NetworkService.Payload != "IP" || got.Deleted {
		t.Errorf("heard %v, %v", got, err)
	}
	if _, err := services.Unregister(ctx, &registryapi.NetworkService{Name: "late"}); err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || !got.Deleted {
		t.Errorf("heard %v, %v", got, err)
	}
}
