package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"highwire/cmd/bundle"
	highwirev1 "highwire/controlplane/api/highwire/v1"
)

func newSupportBundle() *cobra.Command {
	var flags doctorFlags
	var data, file string
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Gather what helps to find a fault into one archive, without secrets",
		Long: `Gathers into one tar.gz: what doctor finds, all that the inspecting commands show (vWires, services, endpoints, interfaces, nodes,
events, plan, differences, counters), what VPP says of itself, VPP's log and configuration, and the kernel's interfaces and routes.
Each part has ten seconds; one that fails is in the archive with the reason, and the others go on. Keys and tokens are
taken out; addresses, names of services and SPIFFE ids stay in. The archive is readable by its owner only.`,
		Example: "  highwire support-bundle\n  highwire support-bundle --file - | ssh support.example 'cat > node1.tar.gz'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root := fmt.Sprintf("highwire-%s-%s", hostname(), time.Now().UTC().Format("20060102-150405"))
			if file == "" {
				file = root + ".tar.gz"
			}
			collectors := flags.collectors(data)
			if file == "-" {
				return bundle.Write(cmd.Context(), cmd.OutOrStdout(), root, collectors)
			}
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("--file: %w", err)
			}
			if err := errors.Join(bundle.Write(cmd.Context(), f, root, collectors), f.Close()); err != nil {
				return errors.Join(err, os.Remove(file))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&data, "data", defaultData, "the agent's data directory, for VPP's log and configuration")
	cmd.Flags().StringVarP(&file, "file", "f", "", "archive to write, '-' for standard output (default: highwire-HOST-TIME.tar.gz here)")
	return cmd
}

// shown are lines of VPP's CLI that tell of its state and show no keys.
var shown = []string{
	"show version verbose", "show interface", "show hardware-interfaces", "show interface rx-placement", "show mode", "show l3xc", "show tap", "show memif",
	"show vxlan tunnel", "show wireguard peer", "show ip neighbor", "show errors", "show runtime", "show buffers", "show memory main-heap", "show threads", "show plugins", "show logging",
}

func (f *doctorFlags) collectors(data string) []bundle.Collector {
	list := []bundle.Collector{
		{Name: "doctor.txt", Collect: func(ctx context.Context) ([]byte, error) {
			var b bytes.Buffer
			err := writeFindings(&b, f.examine(ctx), outputFlag{"table"})
			return b.Bytes(), err
		}},
		f.answer("version.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.Version(ctx, &highwirev1.VersionRequest{})
		}),
		f.answer("vwires.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.ListVWires(ctx, &highwirev1.ListVWiresRequest{})
		}),
		f.answer("services.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.ListServices(ctx, &highwirev1.ListServicesRequest{})
		}),
		f.answer("endpoints.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.ListEndpoints(ctx, &highwirev1.ListEndpointsRequest{})
		}),
		f.answer("interfaces.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.ListInterfaces(ctx, &highwirev1.ListInterfacesRequest{})
		}),
		f.answer("nodes.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.ListNodes(ctx, &highwirev1.ListNodesRequest{})
		}),
		f.answer("dataplane.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.Dataplane(ctx, &highwirev1.DataplaneRequest{})
		}),
		f.answer("diff.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.Diff(ctx, &highwirev1.DiffRequest{})
		}),
		f.answer("plan.json", func(ctx context.Context, c highwirev1.InspectClient) (proto.Message, error) {
			return c.Plan(ctx, &highwirev1.PlanRequest{Of: &highwirev1.PlanRequest_Resync{Resync: true}})
		}),
		{Name: "events.txt", Collect: func(ctx context.Context) ([]byte, error) {
			var b bytes.Buffer
			err := f.admin.events(ctx, nil, false, true, func(e *highwirev1.Event) error { return writeEvent(&b, e, outputFlag{"wide"}) })
			return b.Bytes(), err
		}},
	}
	for _, line := range shown {
		list = append(list, bundle.Collector{Name: "vpp/" + strings.ReplaceAll(line, " ", "-") + ".txt", Collect: func(ctx context.Context) (text []byte, err error) {
			err = f.admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) error {
				r, err := c.RunCLI(ctx, &highwirev1.RunCLIRequest{Line: line})
				text = []byte(r.GetText())
				return err
			})
			return text, err
		}})
	}
	for _, name := range []string{"vpp/vpp.log", "vpp/startup.conf"} {
		list = append(list, bundle.Collector{Name: name, Collect: func(context.Context) ([]byte, error) { return tail(filepath.Join(data, name)) }})
	}
	for _, args := range [][]string{{"ip", "-d", "-s", "link"}, {"ip", "address"}, {"ip", "route", "show", "table", "all"}, {"uname", "-a"}} {
		list = append(list, bundle.Collector{Name: "kernel/" + strings.ReplaceAll(strings.Join(args, "-"), "--", "-") + ".txt", Collect: func(ctx context.Context) ([]byte, error) {
			return exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
		}})
	}
	return list
}

// answer collects what an agent answers, as JSON.
func (f *doctorFlags) answer(name string, ask func(context.Context, highwirev1.InspectClient) (proto.Message, error)) bundle.Collector {
	return bundle.Collector{Name: name, Collect: func(ctx context.Context) (text []byte, err error) {
		err = f.admin.ask(ctx, func(ctx context.Context, c highwirev1.InspectClient) error {
			m, err := ask(ctx, c)
			if err != nil {
				return err
			}
			text, err = protojson.MarshalOptions{Multiline: true}.Marshal(m)
			return err
		})
		return text, err
	}}
}

// tailBytes is how much of a log is taken, from its end.
const tailBytes = 1 << 20

func tail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, tailBytes))
}
