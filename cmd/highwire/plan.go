package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newPlan() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var file string
	var anew bool
	cmd := &cobra.Command{
		Use:   "plan [ID]",
		Short: "Say what would be sent to VPP, and send nothing",
		Long: `Says what would be sent to VPP, and sends nothing: at the next resync, or, with ID, if the client of that vWire asked again
(with --anew as if nothing of it were there), or, with --file, for a vWire that does not exist. The file (JSON or YAML, '-' for
standard input) describes both ends as they would be agreed on:

  id: trial
  payload: ETHERNET
  client:   {mechanism: KERNEL, parameters: {name: nsm-1, inodeURL: "inode://4/4026532281"}, addresses: [10.0.0.1/32]}
  endpoint: {mechanism: KERNEL, parameters: {name: web, inodeURL: "inode://4/4026532290"}, addresses: [10.0.0.2/32]}

Steps: '-' removes, '.' goes with what is removed, '+' makes, '=' verifies in the kernel and changes only what differs. -o wide shows
the messages of VPP's binary API with their fields; an index that VPP is yet to give is 4294967295 there.`,
		Example:           "  highwire plan\n  highwire plan client-0 --anew -o wide\n  highwire plan --file vwire.yaml",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: admin.completeVWires,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			r := &highwirev1.PlanRequest{Of: &highwirev1.PlanRequest_Resync{Resync: true}, Anew: anew}
			switch {
			case file != "" && len(args) > 0:
				return usagef("ID and --file exclude each other")
			case file != "":
				wanted, err := readWanted(cmd.InOrStdin(), file)
				if err != nil {
					return err
				}
				r.Of = &highwirev1.PlanRequest_Wanted{Wanted: wanted}
			case len(args) > 0:
				r.Of = &highwirev1.PlanRequest_Vwire{Vwire: args[0]}
			case anew:
				return usagef("--anew needs an ID")
			}
			return admin.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
				p, err := c.Plan(ctx, r)
				if status.Code(err) == codes.NotFound && len(args) > 0 {
					return withNearest(ctx, c, args[0], err)
				}
				if err != nil {
					return err
				}
				if !output.table() {
					return encodeOne(cmd.OutOrStdout(), output.format, p)
				}
				return writePlan(cmd.OutOrStdout(), p, output.wide())
			})
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	cmd.Flags().StringVarP(&file, "file", "f", "", "plan for the vWire that this file describes")
	cmd.Flags().BoolVar(&anew, "anew", false, "as if nothing of the vWire were there")
	return cmd
}

// readWanted reads a vWire that is only thought of.
func readWanted(stdin io.Reader, file string) (*highwirev1.WantedVWire, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(file)
	}
	if err == nil {
		text, err = yaml.YAMLToJSON(text)
	}
	w := &highwirev1.WantedVWire{}
	if err == nil {
		err = protojson.Unmarshal(text, w)
	}
	if err != nil {
		return nil, fmt.Errorf("--file %s: %w", file, err)
	}
	return w, nil
}

func writePlan(w io.Writer, p *highwirev1.PlanResponse, wide bool) error {
	var b strings.Builder
	if len(p.GetSteps()) == 0 {
		b.WriteString("nothing: all is as wanted\n")
	}
	for _, s := range p.GetSteps() {
		mark := map[string]string{"create": "+", "remove": "-", "vanish": ".", "verify": "="}[s.GetAction()]
		fmt.Fprintf(&b, "%s %s %s: %s\n", mark, s.GetObject().GetKind(), s.GetObject().GetName(), s.GetObject().GetText())
		if wide {
			for _, m := range s.GetMessages() {
				fmt.Fprintf(&b, "    %s\n", m)
			}
		}
	}
	if p.GetAgain() {
		b.WriteString("and a second plan, for what has to be removed before it is made anew\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func newDiff() *cobra.Command {
	var admin adminFlag
	var output outputFlag
	var watch watchFlag
	cmd := &cobra.Command{
		Use:   "diff [ID]",
		Short: "Compare what is wanted with what VPP holds now",
		Long: `Dumps what VPP and the kernel hold of ours now and shows what is not as wanted, for all vWires or for one: '-' is not there,
'+' is there and not wanted, '~' is otherwise. It ends with exit code 1 when something differs. Nothing is changed: the next resync does that.`,
		Example:           "  highwire diff\n  highwire diff client-0 -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: admin.completeVWires,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			differs := false
			err := watch.run(cmd, func(ctx context.Context, w io.Writer) error {
				return admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) error {
					r := &highwirev1.DiffRequest{}
					if len(args) > 0 {
						r.Vwire = args[0]
					}
					d, err := c.Diff(ctx, r)
					if status.Code(err) == codes.NotFound && len(args) > 0 {
						return withNearest(ctx, c, args[0], err)
					}
					if err != nil {
						return err
					}
					differs = len(d.GetDifferences()) > 0
					if !output.table() {
						return encodeOne(w, output.format, d)
					}
					return writeDiff(w, d)
				})
			})
			if err == nil && differs {
				return exitError(exitFailure)
			}
			return err
		},
	}
	admin.add(cmd.Flags())
	output.add(cmd.Flags())
	watch.add(cmd)
	return cmd
}

func writeDiff(w io.Writer, d *highwirev1.DiffResponse) error {
	if len(d.GetDifferences()) == 0 {
		_, err := fmt.Fprintf(w, "no difference: %d objects are as wanted\n", d.GetCompared())
		return err
	}
	for _, x := range d.GetDifferences() {
		mark := "~"
		switch {
		case x.GetHave() == "":
			mark = "-"
		case x.GetWant() == "":
			mark = "+"
		}
		if _, err := fmt.Fprintf(w, "%s %s %s: %s\n", mark, x.GetKind(), x.GetName(), differenceText(x)); err != nil {
			return err
		}
	}
	return nil
}

func differenceText(d *highwirev1.Difference) string {
	switch {
	case d.GetHave() == "":
		return "missing: " + d.GetWant()
	case d.GetWant() == "":
		return "not wanted: " + d.GetHave()
	}
	return fmt.Sprintf("is %s, wanted %s", d.GetHave(), d.GetWant())
}
