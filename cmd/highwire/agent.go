package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"highwire/controlplane/devices"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/packets"
	"highwire/controlplane/server"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/sriov"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// agent is the node's member of the mesh.
type agent struct {
	name        string
	listen      []string
	admin       string
	data        string
	trustDomain string
	federate    map[string]string
	spiffe      string
	workload    string
	directory   directory
	role        role
	ends        ends
	functions   functions
	vpp         dataplane
	logs        logFlags
}

func newAgent() *cobra.Command {
	var a agent
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node's agent: take Requests and drive VPP",
		Long: `Runs the agent of this node: the manager and both registries of a Network Service Mesh on one socket, and the forwarder that
keeps VPP equal to the vWires that were asked for.

With nothing else installed it has a registry and a journal in --data, a development CA that hands out identities at
--workload-socket, and pocketvpp where no VPP is found. --spiffe-socket takes identities from SPIRE instead.

It tells an init system that it is ready by NOTIFY_SOCKET (systemd's Type=notify), and ends in order at SIGTERM.`,
		Example: "  highwire agent\n  highwire agent --vpp spawn --vpp-bin /usr/bin/vpp\n" +
			"  highwire agent --vpp external --spiffe-socket unix:///run/spire/agent.sock --listen unix:///run/nsm.sock --listen tcp://:5001",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.logs.logger(cmd)
			if err != nil {
				return err
			}
			slog.SetDefault(log)
			if err := a.role.resolve(&a, cmd.Flags()); err != nil {
				return err
			}
			if err := a.ends.check(); err != nil {
				return err
			}
			if err := a.directory.resolve(a.listen); err != nil {
				return err
			}
			if a.role.name != roleManager {
				if err := a.vpp.resolve(cmd.Context()); err != nil {
					return err
				}
			}
			return a.run(cmd.Context(), log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&a.name, "name", "highwire-"+hostname(), "our segment in the path of connections; no client may have the same")
	alsoFrom(flags, "name", "NSM_NAME")
	flags.StringSliceVar(&a.listen, "listen", []string{defaultListen}, "where clients and endpoints connect, repeatable: unix:///path or tcp://ip:port")
	alsoFrom(flags, "listen", "NSM_LISTEN_ON")
	flags.StringVar(&a.admin, "admin", defaultAdmin, "socket for the inspecting commands")
	flags.StringVar(&a.data, "data", defaultData, "directory of journal, registry, development CA and VPP's files")
	flags.StringVar(&a.trustDomain, "trust-domain", "highwire.local", "trust domain of the development CA")
	flags.StringToStringVar(&a.federate, "federate", nil, "other trust domains that the development CA has its members trust: NAME=FILE, the file being data/ca/bundle.pem of the CA there")
	flags.StringVar(&a.spiffe, "spiffe-socket", "", "SPIFFE Workload API to take identities from (default: the development CA)")
	alsoFrom(flags, "spiffe-socket", "SPIFFE_ENDPOINT_SOCKET")
	flags.StringVar(&a.workload, "workload-socket", defaultWorkload, "where the development CA serves the Workload API to clients and endpoints")
	a.role.add(flags)
	a.directory.add(flags)
	a.vpp.add(flags)
	flags.BoolVar(&a.vpp.keep, "vpp-keep", false, "leave a launched VPP running when the agent ends; packets flow on and the next agent adopts it")
	a.ends.add(flags)
	a.functions.add(flags)
	a.logs.add(flags)
	return cmd
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "node"
	}
	return name
}

// run keeps the agent running until ctx ends. Parts are started from the dataplane up, so that whoever gets an answer finds
// everything below it there.
func (a *agent) run(ctx context.Context, log *slog.Logger) error {
	if err := os.MkdirAll(a.data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	p := newParts(ctx)
	if err := a.start(p, log); err != nil {
		return p.abort(err)
	}
	if err := notifyReady(); err != nil {
		log.Warn("nobody could be told that the agent is ready", "reason", err)
	}
	log.Info("ready", "listen", strings.Join(a.listen, " "), "admin", a.admin, "dataplane", a.vpp.String())
	return p.wait()
}

// start starts all parts; on error some of them run.
func (a *agent) start(p *parts, log *slog.Logger) error {
	source, err := a.identity(p)
	if err != nil {
		return err
	}
	config := manager.Config{Name: a.name, Signer: source, Works: a.role.name == roleForwarder}
	inspect := &server.Inspect{
		AgentVersion: version, SPIFFEID: source.ID, VWires: func() []forwarder.Status { return nil },
		Dataplane: func() string { return "" }, CLI: noDataplane,
	}
	var more []func(grpc.ServiceRegistrar)
	if a.role.name == roleManager {
		config.Forwarders = forwarders
	} else if more, err = a.dataplane(p, &config, inspect, log); err != nil {
		return err
	}
	directory, register, err := a.openDirectory(p, source)
	if err != nil {
		return err
	}
	pool := hop.NewPool(a.name, source.DialOptions()...)
	p.onStop(pool.Close)
	config.Directory, config.Pool = directory, pool

	m := manager.New(config)
	p.onStop(m.Shutdown)
	if err := m.Restore(p.ctx, inspect.VWires()); err != nil {
		log.Warn("not every vWire of the journal could be taken up again", "reason", err)
	}
	inspect.Connections, inspect.Registry = m.Snapshot, directory
	admin, err := server.NewAdmin(a.admin, inspect, more...)
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	p.run("admin socket", admin.Run)
	mesh, err := server.New(server.Config{Source: source, Listen: a.listen, Handler: m, Register: register})
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	p.run("server", mesh.Run)
	if a.role.name == roleForwarder {
		p.run("registration", func(ctx context.Context) error { return a.role.register(ctx, a, source) })
	}
	return nil
}

// dataplane starts the forwarder, and tells the manager and the inspecting commands of it.
func (a *agent) dataplane(p *parts, config *manager.Config, inspect *server.Inspect, log *slog.Logger) ([]func(grpc.ServiceRegistrar), error) {
	reconciler, set, namespaces, lent, err := a.forwarder(p, log)
	if err != nil {
		return nil, err
	}
	config.Dataplane, config.Mechanisms, config.Namespaces = reconciler, set, namespaces
	inspect.VWires = reconciler.List
	inspect.Dataplane = func() string {
		vpp, err := reconciler.VPP()
		if err != nil {
			return ""
		}
		return vpp.Version()
	}
	inspect.CLI = func(ctx context.Context, line string) (string, error) {
		vpp, err := reconciler.VPP()
		if err != nil {
			return "", err
		}
		return vpp.CLI(ctx, line)
	}
	return []func(grpc.ServiceRegistrar){
		packets.New(packets.Config{VWires: reconciler.List, VPP: reconciler.VPP, Namespaces: namespaces}).AddTo, devices.New(lent).AddTo,
	}, nil
}

func noDataplane(context.Context, string) (string, error) {
	return "", fault.New(fault.Unavailable, "this agent is a manager only; ask the forwarder's")
}

// firstSVID bounds the wait for an identity.
const firstSVID = 30 * time.Second

// identity gets the agent's own, from the Workload API it was told or from a development CA that it becomes.
func (a *agent) identity(p *parts) (*identity.Source, error) {
	address := a.spiffe
	if address == "" {
		ca, err := identity.NewCA(a.trustDomain, filepath.Join(a.data, "ca"), identity.WithFederation(a.federate))
		if err != nil {
			return nil, err
		}
		p.run("development CA", func(ctx context.Context) error { return ca.Serve(ctx, a.workload) })
		address = "unix://" + a.workload
	}
	return openSource(p, address)
}

// openSource connects to a Workload API and closes the source with the parts.
func openSource(p *parts, address string, options ...identity.SourceOption) (*identity.Source, error) {
	ctx, cancel := context.WithTimeout(p.ctx, firstSVID)
	defer cancel()
	source, err := identity.NewSource(ctx, address, options...)
	if err != nil {
		return nil, fmt.Errorf("no identity: %w", err)
	}
	p.onStop(func() { closing(slog.Default(), "SPIFFE source", source.Close()) })
	return source, nil
}

// forwarder starts the dataplane and the reconciler over it, and waits until VPP has been compared with the journal.
func (a *agent) forwarder(p *parts, log *slog.Logger) (*forwarder.Reconciler, mechanisms.Set, *kernel.Namespaces, *sriov.Pool, error) {
	namespaces, err := kernel.NewPinnedNamespaces(filepath.Join(a.data, "netns"))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	socket, err := a.vpp.start(p, a.data, log)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	underlay, err := a.ends.underlay(log)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	p.run("uplink", underlay.Run)
	secret, err := wireguard.LoadSecret(filepath.Join(a.data, "wireguard.secret"))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	set, closeAll := a.ends.mechanisms(namespaces, underlay, secret)
	p.onStop(closeAll)
	set, pool, err := a.functions.start(p, a.data, set, namespaces, log)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	reconciler, err := forwarder.New(forwarder.Config{
		Dialer: vppapi.Dialer{Socket: socket, OnHang: a.vpp.onHang(log), Log: log}, Mechanisms: set, Journal: filepath.Join(a.data, "journal.db"),
		MaxAFPacket: a.ends.kernelLimit, Node: underlay, Log: log,
	})
	if err != nil {
		return nil, nil, nil, nil, err
	}
	namespaces.Sweep()
	p.run("forwarder", reconciler.Run)
	select {
	case <-reconciler.Ready():
		return reconciler, set, namespaces, pool, nil
	case <-p.ctx.Done():
		return nil, nil, nil, nil, p.ctx.Err()
	}
}

// closing logs what could not be closed: the process ends anyway.
func closing(log *slog.Logger, what string, err error) {
	if err != nil {
		log.Warn("closing", "what", what, "reason", err)
	}
}
