package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"highwire/controlplane/devices"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/manager"
	"highwire/controlplane/metrics"
	"highwire/controlplane/packets"
	"highwire/controlplane/policy"
	"highwire/controlplane/server"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/mechanisms/sriov"
	"highwire/mechanisms/wireguard"
	"highwire/vppapi"
	"highwire/vppapi/stats"
)

// agent is the node's member of the mesh.
type agent struct {
	name        string
	listen      []string
	admin       string
	adminGroup  string
	metrics     string
	data        string
	trustDomain string
	federate    map[string]string
	spiffe      string
	workload    string
	directory   directory
	role        role
	policy      string
	excluded    string
	limits      limits
	grace       time.Duration
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
			if err := errors.Join(a.ends.check(), a.limits.check()); err != nil {
				return usageError{err}
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
	flags.StringVar(&a.adminGroup, "admin-group", "", "group that may use the admin socket too (default: only the agent's user)")
	flags.StringVar(&a.metrics, "metrics", "", "where /metrics, /healthz, /readyz and /startupz answer, without TLS: 127.0.0.1:9273, or :9273 for everybody (default: nowhere)")
	flags.StringVar(&a.data, "data", defaultData, "directory of journal, registry, development CA and VPP's files")
	flags.StringVar(&a.trustDomain, "trust-domain", "highwire.local", "trust domain of the development CA")
	flags.StringToStringVar(&a.federate, "federate", nil, "other trust domains that the development CA has its members trust: NAME=FILE, the file being data/ca/bundle.pem of the CA there")
	flags.StringVar(&a.spiffe, "spiffe-socket", "", "SPIFFE Workload API to take identities from (default: the development CA)")
	alsoFrom(flags, "spiffe-socket", "SPIFFE_ENDPOINT_SOCKET")
	flags.StringVar(&a.workload, "workload-socket", defaultWorkload, "where the development CA serves the Workload API to clients and endpoints")
	a.role.add(flags)
	a.directory.add(flags)
	flags.StringVar(&a.policy, "policy", "", "file of rules about who may have which vWire, followed when it changes; 'highwire policy test' tries one (default: everybody everything)")
	flags.StringVar(&a.excluded, "excluded-prefixes", "/var/lib/networkservicemesh/config/excluded_prefixes.yaml",
		"file with the key prefixes, followed when it changes: addresses that no endpoint may hand out; without its directory there are none")
	a.limits.add(flags)
	a.vpp.add(flags)
	flags.BoolVar(&a.vpp.keep, "vpp-keep", false, "leave a launched VPP running when the agent ends; packets flow on and the next agent adopts it")
	flags.IntVar(&a.vpp.vwires, "vpp-vwires", 0, "vWires that a launched VPP gets packet buffers for, by what their rings hold; 0 for 32768 buffers")
	flags.DurationVar(&a.grace, "grace", 2*time.Minute, "how long after its start the agent leaves alone what an earlier one has left and nobody has claimed yet")
	a.ends.add(flags)
	a.functions.add(flags)
	a.logs.add(flags)
	return cmd
}

// owner is a word for this agent that is the same in its next life, and another one for an agent with another name or directory.
func (a *agent) owner() string {
	data, err := filepath.Abs(a.data)
	if err != nil {
		data = a.data
	}
	sum := sha256.Sum256([]byte(a.name + "\x00" + data))
	return hex.EncodeToString(sum[:6])
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
	var figures *metrics.Server
	if a.metrics != "" {
		var err error
		if figures, err = metrics.Listen(a.metrics); err != nil {
			return fmt.Errorf("--metrics: %w", err)
		}
		p.run("metrics", figures.Run)
		log.Info("metrics and probes", "address", figures.Addr())
	}
	source, err := a.identity(p)
	if err != nil {
		return err
	}
	events := forwarder.NewEvents()
	config := manager.Config{Name: a.name, Signer: source, Events: events, Works: a.role.name == roleForwarder}
	inspect := &server.Inspect{
		Name: a.name, AgentVersion: version, SPIFFEID: source.ID, VWires: func() []forwarder.Status { return nil }, Events: events,
		DataplaneVersion: func() string { return "" },
	}
	var reconciler *forwarder.Reconciler // nil for a manager only
	var more []func(grpc.ServiceRegistrar)
	if a.role.name == roleManager {
		config.Forwarders = forwarders
	} else if reconciler, more, err = a.dataplane(p, &config, inspect, events, log); err != nil {
		return err
	}
	a.directory.perIdentity = a.limits.registrationsPerIdentity
	directory, register, err := a.openDirectory(p, source)
	if err != nil {
		return err
	}
	pool := hop.NewPool(a.name, source.DialOptions()...)
	p.onStop(pool.Close)
	config.Directory, config.Pool = directory, pool

	config.MaxConnections, config.MaxPerIdentity = a.limits.vwires, a.limits.vwiresPerIdentity
	if a.policy != "" {
		rules, err := policy.Open(a.policy, log)
		if err != nil {
			return fmt.Errorf("--policy: %w", err)
		}
		p.run("policy", rules.Run)
		config.Policy = rules
	}
	excluded, err := manager.OpenExcluded(a.excluded, log)
	switch {
	case err == nil:
		p.run("excluded prefixes", excluded.Run)
		config.Excluded = excluded.Prefixes
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--excluded-prefixes: %w", err)
	}
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
	if err := letGroup(a.adminGroup, a.admin); err != nil {
		return fmt.Errorf("--admin-group: %w", err)
	}
	p.run("admin socket", admin.Run)
	mesh, err := server.New(server.Config{Source: source, Listen: a.listen, Handler: m, Register: register, Limits: a.limits.server()})
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	p.run("server", mesh.Run)
	if a.role.name == roleForwarder {
		p.run("registration", func(ctx context.Context) error { return a.role.register(ctx, a, source) })
	}
	if figures != nil {
		figures.Started(a.registry(reconciler, inspect, m, source, events), func() error { return ready(reconciler, source) })
	}
	return nil
}

// dataplane starts the forwarder, and tells the manager and the inspecting commands of it.
func (a *agent) dataplane(p *parts, config *manager.Config, inspect *server.Inspect, events *forwarder.Events, log *slog.Logger) (
	*forwarder.Reconciler, []func(grpc.ServiceRegistrar), error,
) {
	reconciler, set, namespaces, lent, err := a.forwarder(p, events, log)
	if err != nil {
		return nil, nil, err
	}
	config.Dataplane, config.Mechanisms, config.Namespaces = reconciler, set, namespaces
	inspect.VWires, inspect.Counters, inspect.Planner = reconciler.List, reconciler.Counters, reconciler
	inspect.DataplaneVersion = func() string {
		vpp, err := reconciler.VPP()
		if err != nil {
			return ""
		}
		return vpp.Version()
	}
	inspect.Interfaces = func(ctx context.Context) ([]vppapi.InterfaceState, error) {
		vpp, err := reconciler.VPP()
		if err != nil {
			return nil, err
		}
		return vpp.Interfaces(ctx)
	}
	inspect.CLI = func(ctx context.Context, line string) (string, error) {
		vpp, err := reconciler.VPP()
		if err != nil {
			return "", err
		}
		return vpp.CLI(ctx, line)
	}
	return reconciler, []func(grpc.ServiceRegistrar){
		packets.New(packets.Config{VWires: reconciler.List, VPP: reconciler.VPP, Namespaces: namespaces}).AddTo, devices.New(lent).AddTo,
	}, nil
}

// registry is what Prometheus is told; r is nil for a manager only.
func (a *agent) registry(r *forwarder.Reconciler, inspect *server.Inspect, m *manager.Manager, source *identity.Source, events *forwarder.Events) *prometheus.Registry {
	counters := inspect.Counters
	if r == nil {
		counters = func(context.Context) (map[string]forwarder.Counters, *stats.Snapshot, error) { return nil, nil, nil }
	}
	return metrics.New(metrics.Config{
		Version: version, VWires: inspect.VWires, Connections: m.Snapshot, Counters: counters, Expiry: source.Expiry, Events: events,
		Messages: func() (sent, refused uint64, ok bool) {
			if r == nil {
				return 0, 0, false
			}
			vpp, err := r.VPP()
			if err != nil {
				return 0, 0, false
			}
			return vpp.Sent(), vpp.Refused(), true
		},
	})
}

// ready tells why no Request could succeed now.
func ready(r *forwarder.Reconciler, source *identity.Source) error {
	if r != nil {
		if _, err := r.VPP(); err != nil {
			return err
		}
	}
	if !time.Now().Before(source.Expiry()) {
		return errors.New("our identity has expired, and its issuer gives no new one")
	}
	return nil
}

// letGroup gives a socket to a group, by name or number; none leaves it alone.
func letGroup(name, path string) error {
	if name == "" {
		return nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		if g, err = user.LookupGroupId(name); err != nil {
			return fmt.Errorf("no group %q: %w", name, err)
		}
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(path, -1, id), os.Chmod(path, 0o660))
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
func (a *agent) forwarder(p *parts, events *forwarder.Events, log *slog.Logger) (*forwarder.Reconciler, mechanisms.Set, *kernel.Namespaces, *sriov.Pool, error) {
	namespaces, err := kernel.NewPinnedNamespaces(filepath.Join(a.data, "netns"), a.owner())
	if err != nil {
		return nil, nil, nil, nil, err
	}
	p.run("namespaces", namespaces.Watch)
	a.vpp.buffers = a.ends.buffers(a.vpp.vwires)
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
	guard := ""
	if a.ends.memifGuard {
		guard = filepath.Join(a.data, "memif")
		if err := os.MkdirAll(guard, 0o700); err != nil {
			return nil, nil, nil, nil, fmt.Errorf("--memif-guard: %w", err)
		}
	}
	set, closeAll := a.ends.mechanisms(namespaces, underlay, secret, guard)
	p.onStop(closeAll)
	set, pool, err := a.functions.start(p, a.data, set, namespaces, log)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	reconciler, err := forwarder.New(forwarder.Config{
		Dialer:     vppapi.Dialer{Socket: socket, StatsSocket: a.vpp.statsSocket(), OnHang: a.vpp.onHang(log), Log: log},
		Mechanisms: set, Journal: filepath.Join(a.data, "journal.db"), Grace: a.grace, MaxAFPacket: a.ends.kernelLimit, Node: underlay,
		Namespaces: namespaces, Events: events, Log: log,
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
