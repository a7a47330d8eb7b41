package main

import (
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/controlplane/registry"
)

// directory says where the agent keeps network services and endpoints, and how other nodes reach it.
type directory struct {
	perIdentity int // registrations
	registry    string
	etcd        etcd
	kubernetes  kubernetes
	public      string
	domains     []string
}

func (d *directory) add(flags *pflag.FlagSet) {
	flags.StringVar(&d.registry, "registry", "", "share the registry of another agent: tcp://ip:port or unix:///path (default: one of our own in --data)")
	alsoFrom(flags, "registry", "NSM_REGISTRY_URL")
	d.etcd.add(flags)
	d.kubernetes.add(flags)
	flags.StringArrayVar(&d.domains, "domain", nil, "another mesh, whose services clients ask for as service@NAME: NAME=tcp://ip:port of its registry, repeatable; * for any that SRV records name, and for addresses")
	flags.StringVar(&d.public, "public-url", "", "where agents on other nodes reach this one: tcp://ip:port (default: the first tcp of --listen)")
}

// resolve completes the public URL from the addresses that the agent listens on.
func (d *directory) resolve(listen []string) error {
	if d.registry != "" && len(d.etcd.endpoints) > 0 || d.kubernetes.use && d.shared() != kubernetesAPI {
		return usagef("--registry, --etcd and --kubernetes: an agent has one registry")
	}
	if d.registry != "" {
		if _, err := hop.Target(d.registry); err != nil {
			return usagef("--registry: %v", err)
		}
	}
	if err := d.etcd.check(); err != nil {
		return err
	}
	if err := d.kubernetes.check(); err != nil {
		return err
	}
	if _, err := d.others(); err != nil {
		return err
	}
	if d.public != "" {
		host, ok := strings.CutPrefix(d.public, "tcp://")
		if a, err := netip.ParseAddrPort(host); !ok || err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
			return usagef("--public-url %q: want tcp://ip:port with an address of this node", d.public)
		}
		return nil
	}
	for _, address := range listen {
		host, ok := strings.CutPrefix(address, "tcp://")
		if !ok {
			continue
		}
		if d.public = d.reachable(host); d.public != "" {
			return nil
		}
	}
	if d.shared() != "" {
		return usagef("other agents could not reach this one; add --listen tcp://ip:port, or say --public-url")
	}
	return nil
}

// reachable is the URL of a listening address. One for all addresses of the node stands for that which the way to the shared
// registry starts from.
func (d *directory) reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() {
		return "tcp://" + listen
	} else if err != nil && host != "" {
		return "" // a name
	}
	shared, err := url.Parse(d.shared())
	if err != nil || shared.Host == "" {
		return ""
	}
	conn, err := net.Dial("udp", shared.Host) // sends nothing
	if err != nil {
		return ""
	}
	defer conn.Close()
	return "tcp://" + net.JoinHostPort(conn.LocalAddr().(*net.UDPAddr).IP.String(), port)
}

// kubernetesAPI stands for the Kubernetes API, whose address its client knows.
const kubernetesAPI = "kubernetes"

// shared is the address of what is shared, empty for a registry of our own.
func (d *directory) shared() string {
	switch {
	case len(d.etcd.endpoints) > 0:
		return d.etcd.endpoints[0]
	case d.registry != "":
		return d.registry
	case d.kubernetes.use:
		return kubernetesAPI
	}
	return ""
}

// others are the domains that --domain names.
func (d *directory) others() (*registry.Domains, error) {
	domains := &registry.Domains{Targets: map[string]string{}}
	for _, text := range d.domains {
		name, address, ok := strings.Cut(text, "=")
		if name == "*" && !ok {
			domains.Any = true
			continue
		}
		target, err := hop.Target(address)
		if name == "" || err != nil {
			return nil, usagef("--domain %q: want NAME=tcp://ip:port, or *", text)
		}
		domains.Targets[name] = target
	}
	return domains, nil
}

// settleTime is how long a shared registry may take to tell what it has before the agent begins without.
const settleTime = 2 * time.Second

// open opens the registry; it closes with the parts.
func (d *directory) open(p *parts, data string, source *identity.Source) (*registry.Registry, error) {
	store, err := d.store(p, data, source)
	if err != nil {
		return nil, err
	}
	p.onStop(func() { closing(slog.Default(), "registry", store.Close()) })
	domains, err := d.others()
	if err != nil {
		return nil, err
	}
	domains.Options = source.DialOptions()
	r := registry.New(store, source, registry.WithPublicURL(d.public), registry.WithDomains(domains), registry.WithPerIdentity(d.perIdentity))
	p.onStop(r.Close)
	return r, nil
}

func (d *directory) store(p *parts, data string, source *identity.Source) (registry.Store, error) {
	var store interface {
		registry.Store
		Settled() <-chan struct{}
	}
	switch {
	case d.shared() == "":
		return registry.OpenBolt(filepath.Join(data, "registry.db"))
	case d.registry != "":
		target, err := hop.Target(d.registry)
		if err != nil {
			return nil, err
		}
		store = registry.OpenRemote(registry.Peer{Target: target, Options: source.DialOptions()})
	case d.kubernetes.use:
		k, err := d.kubernetes.open()
		if err != nil {
			return nil, err
		}
		store = k
	default:
		e, err := d.etcd.open()
		if err != nil {
			return nil, err
		}
		store = e
	}
	select {
	case <-store.Settled():
	case <-time.After(settleTime):
		slog.Warn("the shared registry does not answer yet", "registry", d.shared())
	case <-p.ctx.Done():
	}
	return store, nil
}
