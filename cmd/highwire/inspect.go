package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// errNoAgent: nobody answers at the admin socket.
var errNoAgent = errors.New("no agent answers")

// inspectWithin bounds one question to an agent.
const inspectWithin = 10 * time.Second

// adminFlag is the --admin of the commands that ask an agent.
type adminFlag struct{ socket string }

func (a *adminFlag) add(flags *pflag.FlagSet) {
	flags.StringVar(&a.socket, "admin", defaultAdmin, "admin socket of the agent")
}

// ask runs fn with a connection to the agent's inspection service and puts its errors into words.
func (a *adminFlag) ask(ctx context.Context, fn func(context.Context, highwirev1.InspectClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, inspectWithin)
	defer cancel()
	return a.connect(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return fn(ctx, highwirev1.NewInspectClient(conn))
	})
}

// connect runs fn with a connection to the agent's admin socket for as long as that takes, and puts its errors into words.
func (a *adminFlag) connect(ctx context.Context, fn func(context.Context, grpc.ClientConnInterface) error) error {
	path := strings.TrimPrefix(a.socket, "unix://")
	// gRPC would say only "unavailable"; the plain dial tells a missing socket from a forbidden one.
	probe, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("no permission for the admin socket %s: run as root, as the agent's user, or in the group of its --admin-group", path)
	case err != nil:
		return fmt.Errorf("%w at %s: start one with 'highwire agent', or name its socket with --admin", errNoAgent, path)
	}
	probe.Close()

	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	err = fn(ctx, conn)
	switch s, ok := status.FromError(err); {
	case err == nil || !ok:
		return err
	case s.Code() == codes.Unavailable && !answers(ctx, path):
		return fmt.Errorf("%w at %s: %s", errNoAgent, path, s.Message())
	default:
		return errors.New(s.Message())
	}
}

// answers tells whether an agent is there: then what is unavailable is something behind it.
func answers(ctx context.Context, path string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func newVPPCtl() *cobra.Command {
	var admin adminFlag
	cmd := &cobra.Command{
		Use:   "vppctl -- LINE...",
		Short: "Run a line of VPP's debug CLI on the agent's dataplane",
		Long: `Runs one line of VPP's debug CLI on the dataplane that the agent drives, and prints what it answers. It goes over the
binary API, so VPP needs no CLI socket.`,
		Example: "  highwire vppctl -- show interface\n  highwire vppctl -- show mode",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return admin.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
				answer, err := c.RunCLI(ctx, &highwirev1.RunCLIRequest{Line: strings.Join(args, " ")})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.TrimRight(answer.GetText(), "\r\n"))
				return err
			})
		},
	}
	admin.add(cmd.Flags())
	return cmd
}

func newVersion() *cobra.Command {
	var admin adminFlag
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Say the versions of this binary, of the agent and of its dataplane",
		Example: "  highwire version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "highwire ", version)
			err := admin.ask(cmd.Context(), func(ctx context.Context, c highwirev1.InspectClient) error {
				v, err := c.Version(ctx, &highwirev1.VersionRequest{})
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "agent     %s (%s)\ndataplane %s\n", v.GetVersion(), v.GetSpiffeId(), v.GetDataplane())
				return nil
			})
			// Its own version is an answer where no agent runs.
			if errors.Is(err, errNoAgent) {
				return nil
			}
			return err
		},
	}
	admin.add(cmd.Flags())
	return cmd
}
