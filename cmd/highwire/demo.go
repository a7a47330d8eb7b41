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
	var memifDirect string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a packet travelling through a vWire on this machine",
		Long: `Makes two network namespaces, starts agent, endpoint and client as the processes that they are in production, pings and
streams through the vWire, shows it as highwire and as VPP see it, and removes all it made, also after Ctrl-C.

With --mechanism memif client and endpoint are the applications themselves: the client pings and generates packets over its
memif. The agent joins the two directly; with --memif-direct never, through VPP.

With --remote there are two agents, each on a node of its own, and the vWire leads through a tunnel between them.

Where it is not run by root it makes itself root of a user namespace of its own, if the kernel allows that.
It exits with 0 only if packets flowed.`,
		Example: "  highwire demo\n  highwire demo --payload IP --cidr 10.1.0.0/24 --cidr fd01::/64\n  highwire demo --vpp pocket --stream 0s\n" +
			"  highwire demo --mechanism memif --memif-direct never\n  highwire demo --remote",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Remote && !cmd.Flags().Changed("payload") {
				cfg.Payload = ""
			} else if !slices.Contains([]string{"ETHERNET", "IP"}, cfg.Payload) {
				return usagef("--payload %q: want ETHERNET or IP", cfg.Payload)
			}
			if !slices.Contains([]string{"kernel", "memif"}, cfg.Mechanism) {
				return usagef("--mechanism %q: want kernel or memif", cfg.Mechanism)
			}
			if !slices.Contains([]string{auto, never}, memifDirect) {
				return usagef("--memif-direct %q: want auto or never", memifDirect)
			}
			if cfg.Remote && vpp.mode == external {
				return usagef("--remote --vpp external: each of the two nodes needs a VPP of its own; choose spawn or pocket")
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
			vpp.own = cfg.Remote
			if err := vpp.resolve(cmd.Context()); err != nil {
				return err
			}
			cfg.Out = cmd.OutOrStdout()
			cfg.Dataplane, cfg.HostNamespace = vpp.String(), vpp.mode == external
			cfg.AgentFlags = append(vpp.args(), "--memif-direct="+memifDirect)
			return demo.Run(cmd.Context(), cfg)
		},
	}
	flags := cmd.Flags()
	vpp.add(flags)
	flags.BoolVar(&cfg.Remote, "remote", false, "put client and endpoint on two nodes, with a network between them: ETHERNET through VXLAN, then IP through WireGuard")
	flags.StringVar(&cfg.Payload, "payload", "ETHERNET", "what the vWire carries: ETHERNET or IP")
	flags.StringVar(&cfg.Mechanism, "mechanism", "kernel", "what client and endpoint are joined by: kernel or memif")
	flags.StringVar(&memifDirect, "memif-direct", auto, "memif: auto joins the two without VPP in between; never")
	flags.StringSliceVar(&cfg.CIDRs, "cidr", []string{"172.16.1.0/24", "fd16::/64"}, "addresses that the endpoint hands out, repeatable")
	flags.DurationVar(&cfg.Stream, "stream", 3*time.Second, "how long to stream over TCP, or to generate packets by memif; 0 for not at all")
	return cmd
}
