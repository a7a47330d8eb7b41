package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"highwire/cmd/demo"
)

func newDemo() *cobra.Command {
	cfg := demo.Config{}
	var vpp dataplane
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a packet travelling through a vWire on this machine",
		Long: `Makes two network namespaces, starts agent, endpoint and client as the processes that they are in production, pings and
streams through the vWire, shows it as highwire and as VPP see it, and removes all it made, also after Ctrl-C.

Where it is not run by root it makes itself root of a user namespace of its own, if the kernel allows that.
It exits with 0 only if packets flowed.`,
		Example: "  highwire demo\n  highwire demo --payload IP --cidr 10.1.0.0/24 --cidr fd01::/64\n  highwire demo --vpp pocket --stream 0s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if !slices.Contains([]string{"ETHERNET", "IP"}, cfg.Payload) {
				return usagef("--payload %q: want ETHERNET or IP", cfg.Payload)
			}
			if cfg.Exe, err = os.Executable(); err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "not root: going on in a user namespace of its own")
				err := demo.Rootless(cmd.Context(), cfg.Exe, os.Args[1:])
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					return exitError(exit.ExitCode())
				}
				return err
			}
			if err := vpp.resolve(cmd.Context()); err != nil {
				return err
			}
			cfg.Out = cmd.OutOrStdout()
			cfg.Dataplane, cfg.AgentFlags, cfg.HostNamespace = vpp.String(), vpp.args(), vpp.mode == external
			return demo.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	vpp.add(flags)
	flags.StringVar(&cfg.Payload, "payload", "ETHERNET", "what the vWire carries: ETHERNET or IP")
	flags.StringSliceVar(&cfg.CIDRs, "cidr", []string{"172.16.1.0/24", "fd16::/64"}, "addresses that the endpoint hands out, repeatable")
	flags.DurationVar(&cfg.Stream, "stream", 3*time.Second, "how long to stream over TCP, 0 for not at all")
	return cmd
}
