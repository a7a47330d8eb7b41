package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"highwire/cmd/lab"
	highwirev1 "highwire/controlplane/api/highwire/v1"
)

// node is an agent of the demo, its files, and the network namespace that it runs in.
type node struct {
	*demo
	name  string // empty where there is only one
	dir   string
	space *lab.Namespace
	// identities is the Workload API of the other node, empty for the own.
	identities string
}

func (n node) path(file string) string { return filepath.Join(n.dir, file) }

// workload is where members of the node get their identity.
func (n node) workload() string {
	if n.identities != "" {
		return n.identities
	}
	return "unix://" + n.path("workload.sock")
}

// serve starts the agent.
func (n node) serve(ctx context.Context, flags ...string) error {
	args := append([]string{"agent", "--data", n.path("data"), "--listen", "unix://" + n.path("nsm.sock"), "--admin", n.path("admin.sock"),
		"--workload-socket", n.path("workload.sock")}, flags...)
	if n.name != "" {
		args = append(args, "--name", n.name)
	}
	if n.identities != "" {
		args = append(args, "--spiffe-socket", n.identities)
	}
	_, err := n.start(ctx, n.dir, n.space, "serves", args)
	return err
}

// launch starts a client or an endpoint, with its files in dir.
func (n node) launch(ctx context.Context, dir, done string, args ...string) (*lab.Process, error) {
	return n.start(ctx, dir, nil, done, append(args, "--connect-to", "unix://"+n.path("nsm.sock"), "--spiffe-socket", n.workload()))
}

// start starts a process that is stopped in its turn, and waits until it is ready.
func (n node) start(ctx context.Context, dir string, in *lab.Namespace, done string, args []string) (*lab.Process, error) {
	begin := time.Now()
	child, err := lab.Launch(ctx, n.Exe, dir, in, args...)
	if err != nil {
		return nil, err
	}
	n.children = append(n.children, child)
	n.later(func(ctx context.Context) error {
		err := child.Stop(ctx)
		for _, line := range child.Said("counters") {
			n.say("%s: %s", child.Name(), line)
		}
		return err
	})
	if err := child.AwaitReady(ctx); err != nil {
		return nil, err
	}
	who := args[0]
	if n.name != "" {
		who += " on " + n.name
	}
	n.say("%s %s after %s (pid %d)", who, done, time.Since(begin).Round(time.Millisecond), child.PID())
	return child, nil
}

// show prints the vWire as an operator sees it.
func (n node) show(ctx context.Context) error {
	v, err := n.vwire(ctx)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"get", "vwires"}, {"describe", "vwire", v.GetId()}} {
		if err := n.print(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// print runs a highwire command against the agent and shows it with its output.
func (n node) print(ctx context.Context, args ...string) error {
	out, err := n.ask(ctx, args...)
	if err != nil {
		return err
	}
	prompt := "$"
	if n.name != "" {
		prompt = n.name + " $"
	}
	fmt.Fprintf(n.Out, "\n%s highwire %s\n%s\n", prompt, strings.Join(args, " "), strings.TrimRight(string(out), "\n"))
	return nil
}

// ask runs a highwire command against the agent.
func (n node) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, n.Exe, args...)
	cmd.Env = append(os.Environ(), "HIGHWIRE_ADMIN="+n.path("admin.sock"))
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return nil, fmt.Errorf("highwire %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// vwire asks the agent for the only one that it has.
func (n node) vwire(ctx context.Context) (*highwirev1.VWire, error) {
	list, err := n.vwires(ctx)
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("the agent has %d vWires; want the one of the demo", len(list))
	}
	v := &highwirev1.VWire{}
	return v, protojson.Unmarshal(list[0], v)
}

func (n node) vwires(ctx context.Context) (list []json.RawMessage, err error) {
	text, err := n.ask(ctx, "get", "vwires", "-o", "json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("highwire get vwires: %w", err)
	}
	return list, nil
}
