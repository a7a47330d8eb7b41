package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"highwire/cmd/doctor"
	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// doctorFlags say where a node's parts are.
type doctorFlags struct {
	admin     adminFlag
	bin       string
	vppSocket string
	listen    string
}

func (f *doctorFlags) add(cmd *cobra.Command) {
	f.admin.add(cmd.Flags())
	cmd.Flags().StringVar(&f.bin, "vpp-bin", "", "vpp executable to look at (default: vpp on PATH)")
	cmd.Flags().StringVar(&f.vppSocket, "vpp-socket", "/run/vpp/api.sock", "binary API socket of an external VPP")
	cmd.Flags().StringVar(&f.listen, "listen", defaultListen, "where the agent takes Requests")
}

func (f *doctorFlags) examine(ctx context.Context) []doctor.Finding {
	checks := append(doctor.Machine{}.Checks(), doctor.VPPBinary(f.bin), doctor.VPPSocket(f.vppSocket),
		doctor.Socket("admin socket", strings.TrimPrefix(f.admin.socket, "unix://"), "start an agent, or name its socket by --admin"),
		doctor.Socket("mesh socket", strings.TrimPrefix(f.listen, "unix://"), "clients find no agent here; start one, or name its socket by --listen"),
		doctor.Check{Name: "agent", Look: f.agent}, doctor.Check{Name: "buffers", Look: f.buffers}, doctor.Check{Name: "vWires", Look: f.vwires},
		doctor.Check{Name: "differences", Look: f.differences})
	return doctor.Examine(ctx, checks)
}

func newDoctor() *cobra.Command {
	var flags doctorFlags
	var output outputFlag
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look this node over: what is needed, what is there, and what to do about the rest",
		Long: `Looks the node over: CPU, memory, hugepages, vhost-net, kernel, permissions, clock, uplink, VPP's version and the CRCs of its
messages, sockets, and, where an agent runs, its buffers, vWires and differences. Each finding comes with a remedy. Nothing is
changed. It ends with exit code 1 when something fails; a warning or what cannot be found out is no failure.`,
		Example: "  highwire doctor\n  highwire doctor -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := output.check(); err != nil {
				return err
			}
			findings := flags.examine(cmd.Context())
			if err := writeFindings(cmd.OutOrStdout(), findings, output); err != nil {
				return err
			}
			if !doctor.Well(findings) {
				return exitError(exitFailure)
			}
			return nil
		},
	}
	flags.add(cmd)
	output.add(cmd.Flags())
	return cmd
}

func writeFindings(w io.Writer, findings []doctor.Finding, output outputFlag) error {
	if !output.table() {
		return encodeAny(w, output.format, findings)
	}
	s := newSheet(w)
	for _, f := range findings {
		fmt.Fprintf(s, "%s\t%s\t%s\n", f.Verdict, f.Check, f.Found)
		if f.Remedy != "" {
			fmt.Fprintf(s, "\t\t→ %s\n", f.Remedy)
		}
	}
	return s.Flush()
}

// ask makes a finding of what the agent answers; without an agent there is none.
func (f *doctorFlags) ask(ctx context.Context, look func(context.Context, highwirev1.InspectClient) (doctor.Finding, error)) doctor.Finding {
	var found doctor.Finding
	err := f.admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) (err error) {
		found, err = look(ctx, c)
		return err
	})
	switch {
	case errors.Is(err, errNoAgent):
		return doctor.Finding{Verdict: doctor.Unknown, Found: "no agent runs here"}
	case err != nil:
		return doctor.Finding{Verdict: doctor.Fail, Found: err.Error()}
	}
	return found
}

func (f *doctorFlags) agent(ctx context.Context) doctor.Finding {
	return f.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) (doctor.Finding, error) {
		v, err := c.Version(ctx, &highwirev1.VersionRequest{})
		switch {
		case err != nil:
			return doctor.Finding{}, err
		case v.GetDataplane() == "":
			return doctor.Finding{Verdict: doctor.Fail, Found: "version " + v.GetVersion() + ", without a VPP", Remedy: "the agent's log says why VPP ended or cannot be reached"}, nil
		case v.GetVersion() != version:
			return doctor.Finding{Verdict: doctor.Warn, Found: "version " + v.GetVersion() + ", this command is " + version, Remedy: "restart the agent with the newer one"}, nil
		}
		return doctor.Finding{Verdict: doctor.OK, Found: "version " + v.GetVersion() + " on VPP " + v.GetDataplane() + ", as " + v.GetSpiffeId()}, nil
	})
}

func (f *doctorFlags) buffers(ctx context.Context) doctor.Finding {
	return f.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) (doctor.Finding, error) {
		d, err := c.Dataplane(ctx, &highwirev1.DataplaneRequest{})
		if err != nil {
			return doctor.Finding{}, err
		}
		found := doctor.Finding{Verdict: doctor.OK}
		var pools []string
		for _, p := range d.GetPools() {
			free, all := p.GetAvailable()+p.GetCached(), p.GetAvailable()+p.GetCached()+p.GetUsed()
			pools = append(pools, fmt.Sprintf("%s: %d of %d free", p.GetName(), free, all))
			if free*10 < all {
				found.Verdict, found.Remedy = doctor.Warn, "packets are lost silently when they run out; give VPP more (buffers-per-numa)"
			}
		}
		found.Found = strings.Join(pools, ", ")
		return found, nil
	})
}

func (f *doctorFlags) vwires(ctx context.Context) doctor.Finding {
	return f.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) (doctor.Finding, error) {
		r, err := c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
		if err != nil {
			return doctor.Finding{}, err
		}
		var bad []string
		for _, v := range r.GetVwires() {
			if v.GetState() != "up" {
				bad = append(bad, v.GetId())
			}
		}
		if len(bad) > 0 {
			return doctor.Finding{
				Verdict: doctor.Warn, Found: fmt.Sprintf("%d of %d are not up, %s among them", len(bad), len(r.GetVwires()), bad[0]),
				Remedy: "highwire describe vwire " + bad[0],
			}, nil
		}
		return doctor.Finding{Verdict: doctor.OK, Found: fmt.Sprintf("%d, all up", len(r.GetVwires()))}, nil
	})
}

func (f *doctorFlags) differences(ctx context.Context) doctor.Finding {
	return f.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) (doctor.Finding, error) {
		d, err := c.Diff(ctx, &highwirev1.DiffRequest{})
		switch {
		case err != nil:
			return doctor.Finding{}, err
		case len(d.GetDifferences()) > 0:
			return doctor.Finding{
				Verdict: doctor.Warn, Found: fmt.Sprintf("%d objects are not as wanted", len(d.GetDifferences())), Remedy: "highwire diff names them; the next resync mends them",
			}, nil
		}
		return doctor.Finding{Verdict: doctor.OK, Found: fmt.Sprintf("none among %d objects", d.GetCompared())}, nil
	})
}
