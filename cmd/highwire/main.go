// Command highwire makes a node a member of a Network Service Mesh and drives VPP as its dataplane.
//
// One binary holds the node's agent, a client and an endpoint for any program, and the commands that look into an agent.
// The commands only wire the parts together and own the signals: controlplane/manager decides, forwarder builds.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. "highwire help" lists them.
const (
	exitOK = iota
	exitFailure
	exitUsage
	exitNoAgent
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	// What fails before a command's own code runs is the command line's fault.
	accepted := false
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd); err != nil {
			return err
		}
		accepted = true
		return nil
	}
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	var other exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &other):
		return int(other)
	case !accepted || errors.As(err, &usage):
		fmt.Fprintf(stderr, "highwire: %v\nsee '%s --help'\n", err, cmd.CommandPath())
		return exitUsage
	case errors.Is(err, errNoAgent):
		fmt.Fprintf(stderr, "highwire: %v\n", err)
		return exitNoAgent
	}
	fmt.Fprintf(stderr, "highwire: %v\n", err)
	return exitFailure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "highwire",
		Short: "Network Service Mesh over VPP",
		Long: `highwire connects clients to network services: a packet that enters a vWire at the client's end leaves at the
endpoint's. The agent of a node takes the requests of clients and endpoints and programs VPP over its binary API.

Each flag can be given by the environment as well: --vpp-bin is HIGHWIRE_VPP_BIN, and so on; the command line wins.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent answers.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newAgent(), newClient(), newEndpoint(), newGet(), newDescribe(), newEvents(), newHistory(), newPlan(), newDiff(), newTop(), newGraph(), newDoctor(), newSupportBundle(), newTrace(), newPcap(), newPing(), newBench(), newVPPCtl(), newPolicy(), newWebhook(), newAnnotate(), newDemo(), newVersion())
	return root
}

// group is a command that only holds others; called without one of them it names them.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	cmd.AddCommand(commands...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		return usagef("%s: want one of %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
	return cmd
}

// exitError is the exit code of a highwire run in this one's place, which has said what there is to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is an argument that no run of the command could accept.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
