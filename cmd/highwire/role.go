package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/registry"
)

// What an agent can be.
const (
	roleAll       = "all"
	roleManager   = "manager"
	roleForwarder = "forwarder"
)

// forwarders is the network service that forwarders are endpoints of (§3.8).
const forwarders = "forwarder"

// role says which part of a node's member of the mesh the agent is.
type role struct {
	name      string
	connectTo string
}

func (r *role) add(flags *pflag.FlagSet) {
	flags.StringVar(&r.name, "role", roleAll, "all; manager: leave the dataplane to forwarders that register here; forwarder: be one of the manager at --connect-to")
	flags.StringVar(&r.connectTo, "connect-to", defaultListen, "the manager that a forwarder works for: unix:///path")
	alsoFrom(flags, "connect-to", "NSM_CONNECT_TO")
}

// resolve checks the role, and gives a forwarder a name and a socket beside those of the manager on the same node.
func (r *role) resolve(a *agent, flags *pflag.FlagSet) error {
	switch r.name {
	case roleAll, roleManager:
		return nil
	case roleForwarder:
	default:
		return usagef("--role %q: want all, manager or forwarder", r.name)
	}
	if _, err := hop.Target(r.connectTo); err != nil {
		return usagef("--connect-to: %v", err)
	}
	if !flags.Changed("name") {
		a.name = "forwarder-" + hostname()
	}
	if !flags.Changed("listen") {
		a.listen = []string{"unix://" + filepath.Join(a.data, "forwarder.sock")}
	}
	if !strings.HasPrefix(a.listen[0], "unix://") {
		return usagef("--listen: the first one of a forwarder is the unix socket that its manager calls")
	}
	return nil
}

// members is what the manager chooses from and the inspecting commands list.
type members interface {
	manager.Directory
	Services(ctx context.Context) ([]*registryapi.NetworkService, error)
	Endpoints(ctx context.Context) ([]*registryapi.NetworkServiceEndpoint, error)
}

// openDirectory opens the agent's registry, or reaches its manager's; the second is what it serves of it.
func (a *agent) openDirectory(p *parts, source *identity.Source) (members, func(grpc.ServiceRegistrar), error) {
	if a.role.name != roleForwarder {
		r, err := a.directory.open(p, a.data, source)
		if err != nil {
			return nil, nil, err
		}
		return r, r.AddTo, nil
	}
	target, err := hop.Target(a.role.connectTo)
	if err != nil {
		return nil, nil, err
	}
	asked := registry.NewAsked(registry.Peer{Target: target, Options: source.DialOptions()})
	p.onStop(asked.Close)
	return asked, nil, nil
}

// register keeps a forwarder registered at its manager.
func (r *role) register(ctx context.Context, a *agent, source *identity.Source) error {
	return endpoint.Register(ctx, endpoint.Config{
		Source: source, Target: r.connectTo, Name: a.name, Services: []string{forwarders}, Labels: map[string]string{"p2p": "true"},
	}, strings.TrimPrefix(a.listen[0], "unix://"))
}
