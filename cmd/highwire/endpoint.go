package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"highwire/cmd/lab"
	"highwire/controlplane/api/connection"
	"highwire/controlplane/endpoint"
	"highwire/controlplane/identity"
	"highwire/mechanisms"
)

func newEndpoint() *cobra.Command {
	var m member
	cfg := endpoint.Config{}
	var payload string
	var types []string
	var addresses addressFlags
	var own bool
	var next string
	cmd := &cobra.Command{
		Use:   "endpoint --service NAME --cidr PREFIX...",
		Short: "Offer a network service and hand out addresses",
		Long: `Registers as an endpoint of the services and accepts every client: each vWire gets a pair of addresses out of each --cidr, and
its interface appears in --netns. It registers again when the agent forgets it, and unregisters when it gets SIGTERM or SIGINT.

With --mechanism memif the endpoint is itself the application at its end of a vWire: it listens on a memif socket of its own
for each client in --netns, answers ARP, IPv6 neighbour discovery and echo requests, and counts what arrives. With both
mechanisms the agent's order decides: memif first.

With --passthrough SERVICE it is a hop in the middle: each client of its own service gets a vWire to SERVICE through it, by memif on both
sides. SERVICE may be its own, where the service's matches tell the hops of the chain apart by the --label of who asks.`,
		Example: "  highwire endpoint --service icmp-responder --cidr 172.16.1.0/24\n" +
			"  highwire endpoint --service web --cidr 10.2.0.0/16 --cidr fd02::/64 --payload IP --netns green\n" +
			"  highwire endpoint --service echo --cidr 10.3.0.0/24 --own-netns\n" +
			"  highwire endpoint --service fast --cidr 10.4.0.0/24 --mechanism memif\n" +
			"  highwire endpoint --service firewall --passthrough fast",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Target, cfg.Name, cfg.Namespace, cfg.Payload = m.connectTo, m.name, m.namespace(), mechanisms.Payload(payload)
			if cfg.Payload != mechanisms.Ethernet && cfg.Payload != mechanisms.IP {
				return usagef("--payload %q: want ETHERNET or IP", payload)
			}
			for _, typ := range types {
				typ = strings.ToUpper(typ)
				if typ != mechanisms.Kernel && typ != mechanisms.Memif {
					return usagef("--mechanism %q: want kernel or memif", typ)
				}
				cfg.Mechanisms = append(cfg.Mechanisms, typ)
			}
			if err := addresses.apply(&cfg); err != nil {
				return err
			}
			if next != "" {
				cfg.Next = &endpoint.Next{Service: next, Labels: cfg.Labels}
			}
			log, err := m.logs.logger(cmd)
			if err != nil {
				return err
			}
			slog.SetDefault(log)
			if own {
				ns, err := lab.New()
				if err != nil {
					return err
				}
				defer ns.Close()
				cfg.Namespace = ns.Path()
			}
			return runEndpoint(cmd.Context(), cmd.OutOrStdout(), log, cfg, &m)
		},
	}
	flags := cmd.Flags()
	m.add(flags, "endpoint")
	flags.StringSliceVar(&cfg.Services, "service", []string{"icmp-responder"}, "network service, repeatable")
	alsoFrom(flags, "service", "NSM_SERVICE_NAMES")
	addresses.add(flags)
	flags.StringSliceVar(&types, "mechanism", []string{"kernel"}, "what clients are joined by, repeatable: kernel or memif")
	flags.StringVar(&payload, "payload", string(mechanisms.Ethernet), "what vWires to services that nobody has registered yet carry: ETHERNET or IP")
	alsoFrom(flags, "payload", "NSM_PAYLOAD")
	flags.StringToStringVar(&cfg.Labels, "label", nil, "label that clients' requests are matched with, repeatable: KEY=VALUE")
	flags.StringSliceVar(&cfg.TokenIDs, "sriov-token", nil, "id of a token for a virtual function, repeatable: each vWire's interface is one of them")
	flags.StringVar(&next, "passthrough", "", "hand packets on to this network service, asked for with our labels, instead of being the last hop; both sides are memifs")
	flags.BoolVar(&own, "own-netns", false, "make a network namespace that lives as long as the endpoint")
	cmd.MarkFlagsMutuallyExclusive("own-netns", "netns")
	return cmd
}

// runEndpoint offers the services until ctx ends and reports to out.
func runEndpoint(ctx context.Context, out io.Writer, log *slog.Logger, cfg endpoint.Config, m *member) error {
	p := newParts(ctx)
	source, err := openSource(p, m.spiffe, identity.WithTokenLifetime(m.lifetime))
	if err != nil {
		return p.abort(err)
	}
	cfg.Source = source
	cfg.Memif = func(c *connection.Connection, socket string) (end func(), err error) {
		a, err := newApplication(c, socket, cfg.Namespace, c.GetContext().GetIpContext().GetDstIpAddrs(), true, log)
		if err != nil {
			return nil, err
		}
		return func() {
			a.end()
			fmt.Fprintf(out, "counters %s: %s\n", c.GetId(), a.summary())
		}, nil
	}
	if cfg.Next != nil {
		cfg.Next.Join = func(c *connection.Connection, from, to string) (func(), error) {
			return join(c, from, to, cfg.Namespace, log)
		}
	}
	var ready sync.Once // and not whenever the agent was restarted: who starts us may listen only once
	cfg.Events = func(e endpoint.Event) {
		ip := e.Connection.GetContext().GetIpContext()
		switch e.Kind {
		case endpoint.Registered:
			fmt.Fprintf(out, "registered %s for %s\n", cfg.Name, strings.Join(cfg.Services, ", "))
			ready.Do(func() {
				if err := notifyReady(); err != nil {
					log.Warn("nobody could be told that the endpoint is ready", "reason", err)
				}
			})
		case endpoint.Unregistered:
			log.Warn("not registered, trying again", "reason", e.Err)
		case endpoint.Opened, endpoint.Closed:
			fmt.Fprintf(out, "%s %s: addresses %s, peer %s\n", e.Kind, e.Connection.GetId(),
				strings.Join(ip.GetDstIpAddrs(), " "), strings.Join(ip.GetSrcIpAddrs(), " "))
		}
	}
	p.run("endpoint", func(ctx context.Context) error { return endpoint.Run(ctx, cfg) })
	return p.wait()
}
