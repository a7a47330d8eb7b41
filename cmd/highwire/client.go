package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"highwire/controlplane/client"
	"highwire/controlplane/identity"
)

func newClient() *cobra.Command {
	var m member
	var services []string
	var labels map[string]string
	cmd := &cobra.Command{
		Use:   "client URL...",
		Short: "Ask for network services and keep them",
		Long: `Asks the agent for vWires to network services and prints a line for each once packets can flow. It refreshes them, asks anew
when an endpoint is lost, and closes them when it gets SIGTERM or SIGINT.

A URL is kernel://SERVICE/INTERFACE?LABEL=VALUE&...: the interface (at most 15 bytes) appears in --netns. Without URLs,
NSM_NETWORK_SERVICES is taken, a comma separated list.`,
		Example: "  highwire client kernel://icmp-responder/nsm-1\n" +
			"  highwire client --netns blue 'kernel://db/db0?zone=a' kernel://web/web0",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg := client.Config{Target: m.connectTo, Name: m.name, Labels: labels, Namespace: m.namespace()}
			urls := append(services, args...)
			if len(args) > 0 {
				urls = args
			}
			if len(urls) == 0 {
				return usagef("no network service: give a URL such as kernel://icmp-responder/nsm-1")
			}
			for _, u := range urls {
				s, err := client.ParseService(u)
				if err != nil {
					return usageError{err}
				}
				cfg.Services = append(cfg.Services, s)
			}
			log, err := m.logs.logger(cmd)
			if err != nil {
				return err
			}
			slog.SetDefault(log)
			return runClient(cmd.Context(), cmd.OutOrStdout(), log, cfg, urls, &m)
		},
	}
	m.add(cmd.Flags(), "client")
	cmd.Flags().StringToStringVar(&labels, "label", nil, "label of all services that do not set it themselves, repeatable: KEY=VALUE")
	cmd.Flags().StringSliceVar(&services, "network-services", nil, "URLs, as arguments")
	alsoFrom(cmd.Flags(), "network-services", "NSM_NETWORK_SERVICES")
	return cmd
}

// runClient keeps the services until ctx ends and reports on them to out.
func runClient(ctx context.Context, out io.Writer, log *slog.Logger, cfg client.Config, urls []string, m *member) error {
	p := newParts(ctx)
	source, err := openSource(p, m.spiffe, identity.WithTokenLifetime(m.lifetime))
	if err != nil {
		return p.abort(err)
	}
	cfg.Source = source
	var mu sync.Mutex
	connected := map[int]bool{}
	cfg.Events = func(e client.Event) {
		mu.Lock()
		defer mu.Unlock()
		log := log.With("service", urls[e.Service])
		switch e.Kind {
		case client.Connected:
			ip := e.Connection.GetContext().GetIpContext()
			fmt.Fprintf(out, "connected %s: interface %s, addresses %s, peer %s\n", urls[e.Service], e.Interface,
				strings.Join(ip.GetSrcIpAddrs(), " "), strings.Join(ip.GetDstIpAddrs(), " "))
			first := !connected[e.Service]
			connected[e.Service] = true
			if first && len(connected) == len(urls) {
				if err := notifyReady(); err != nil {
					log.Warn("nobody could be told that the client is ready", "reason", err)
				}
			}
		case client.Failed:
			log.Warn("no vWire yet, asking again", "reason", e.Err)
		case client.Lost:
			log.Warn("the vWire was lost, asking again", "reason", e.Err)
		case client.Refreshed:
			log.Debug("refreshed")
		case client.Closed:
			log.Info("closed")
		}
	}
	p.run("client", func(ctx context.Context) error { return client.Run(ctx, cfg) })
	return p.wait()
}
