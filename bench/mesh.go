package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"highwire/cmd/lab"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/identity"
)

// service is what the endpoint of a mesh offers.
const service = "bench"

// mesh is an agent and an endpoint, each a process of its own, and the identity of the clients, which are here.
type mesh struct {
	dir, highwire   string
	agent, endpoint *lab.Process
	agentArgs       []string
	source          *identity.Source
	admin           *grpc.ClientConn
	undo            []func() error // newest last
}

// meshConfig says which.
type meshConfig struct {
	// highwire is the binary, dataplane the agent's flags that choose it.
	highwire  string
	dataplane []string
	// agent are more of the agent's flags.
	agent []string
	// mechanism of the endpoint; several are separated by commas.
	mechanism string
	// log is the level of the agent's and the endpoint's logs, empty for error.
	log string
}

// startMesh starts the processes, each once the one before is ready. Files go into a directory of their own.
func startMesh(ctx context.Context, c meshConfig) (m *mesh, err error) {
	m = &mesh{highwire: c.highwire}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop())
		}
	}()
	if m.dir, err = os.MkdirTemp("", "hw-bench"); err != nil {
		return m, err
	}
	m.later(func() error { return os.RemoveAll(m.dir) })
	workload, target := "unix://"+m.path("workload.sock"), m.target()
	level := cmp.Or(c.log, "error")
	m.agentArgs = append(append([]string{"agent", "--data", m.path("data"), "--listen", target, "--admin", m.path("admin.sock"),
		"--workload-socket", m.path("workload.sock"), "--log-level", level}, c.dataplane...), c.agent...)
	m.later(func() error {
		if m.agent == nil {
			return nil
		}
		return m.agent.Stop(context.WithoutCancel(ctx))
	})
	if err = m.startAgent(ctx); err != nil {
		return m, err
	}
	m.endpoint, err = m.launch(ctx, []string{"endpoint", "--connect-to", target, "--spiffe-socket", workload, "--log-level", level,
		"--service", service, "--cidr", "10.0.0.0/16", "--mechanism", c.mechanism, "--own-netns"})
	if err != nil {
		return m, err
	}
	if m.source, err = identity.NewSource(ctx, workload); err != nil {
		return m, err
	}
	m.later(m.source.Close)
	m.admin, err = grpc.NewClient("unix://"+m.path("admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return m, err
	}
	m.later(m.admin.Close)
	return m, nil
}

func (m *mesh) later(fn func() error) { m.undo = append(m.undo, fn) }

func (m *mesh) path(name string) string { return filepath.Join(m.dir, name) }

// target is where the agent listens.
func (m *mesh) target() string { return "unix://" + m.path("nsm.sock") }

func (m *mesh) launch(ctx context.Context, args []string) (*lab.Process, error) {
	p, err := lab.Launch(ctx, m.highwire, m.dir, nil, args...)
	if err != nil {
		return nil, err
	}
	m.later(func() error { return p.Stop(context.WithoutCancel(ctx)) })
	return p, ready(ctx, p)
}

func ready(ctx context.Context, p *lab.Process) error {
	if err := p.AwaitReady(ctx); err != nil {
		return fmt.Errorf("%w:\n%s", err, p.LastWords())
	}
	return nil
}

// startAgent starts the agent, at first or after it was killed.
func (m *mesh) startAgent(ctx context.Context) (err error) {
	if m.agent, err = lab.Launch(ctx, m.highwire, m.dir, nil, m.agentArgs...); err != nil {
		return err
	}
	return ready(ctx, m.agent)
}

// stop ends everything in reverse order.
func (m *mesh) stop() error {
	var errs []error
	for i := len(m.undo) - 1; i >= 0; i-- {
		errs = append(errs, m.undo[i]())
	}
	return errors.Join(errs...)
}

// standing is how many vWires the agent has up.
func (m *mesh) standing(ctx context.Context) (int, error) {
	answer, err := highwirev1.NewInspectClient(m.admin).ListVWires(ctx, &highwirev1.ListVWiresRequest{}, grpc.MaxCallRecvMsgSize(64<<20))
	up := 0
	for _, v := range answer.GetVwires() {
		if v.State == "up" {
			up++
		}
	}
	return up, err
}
