package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	// mechanism of the endpoint.
	mechanism string
	// payload of the service, empty for the endpoint's default.
	payload string
	// nodes: the endpoint is on a node of its own, with another agent.
	nodes bool
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
	workload, target, other := "unix://"+m.path("workload.sock"), m.target(), m.target()
	agent := append(append([]string{"agent", "--data", m.path("data"), "--listen", target, "--admin", m.path("admin.sock"),
		"--workload-socket", m.path("workload.sock"), "--log-level", "error"}, c.dataplane...), c.agent...)
	if c.nodes {
		other, err = m.startNodes(ctx, agent, workload, append(c.dataplane, c.agent...))
	} else {
		m.agent, err = m.launch(ctx, m.dir, nil, agent)
	}
	if err != nil {
		return m, err
	}
	endpoint := []string{"endpoint", "--connect-to", other, "--spiffe-socket", workload, "--log-level", "error",
		"--service", service, "--cidr", "10.0.0.0/16", "--mechanism", c.mechanism, "--own-netns"}
	if c.payload != "" {
		endpoint = append(endpoint, "--payload", c.payload)
	}
	if m.endpoint, err = m.launch(ctx, m.dir, nil, endpoint); err != nil {
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

// startNodes starts the clients' agent on one node and another agent on a second one, where the endpoint is to be, and returns
// where that listens.
func (m *mesh) startNodes(ctx context.Context, agent []string, workload string, flags []string) (target string, err error) {
	var nodes [2]*lab.Namespace
	for i := range nodes {
		if nodes[i], err = lab.New(); err != nil {
			return "", err
		}
		m.later(nodes[i].Close)
	}
	addrs := [2]netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("198.18.0.2/24")}
	if err := lab.Join("wire0", nodes[0], nodes[1], addrs[:1], addrs[1:]); err != nil {
		return "", err
	}
	url := func(i int) string { return "tcp://" + netip.AddrPortFrom(addrs[i].Addr(), 5001).String() }
	if m.agent, err = m.launch(ctx, m.dir, nodes[0], append(agent, "--name", "near", "--uplink", "wire0", "--listen", url(0))); err != nil {
		return "", err
	}
	far := m.path("far")
	if err := os.Mkdir(far, 0o700); err != nil {
		return "", err
	}
	target = "unix://" + filepath.Join(far, "nsm.sock")
	_, err = m.launch(ctx, far, nodes[1], append([]string{"agent", "--name", "far", "--data", filepath.Join(far, "data"), "--listen", target, "--listen", url(1),
		"--admin", filepath.Join(far, "admin.sock"), "--spiffe-socket", workload, "--registry", url(0), "--uplink", "wire0", "--log-level", "error"}, flags...))
	return target, err
}

func (m *mesh) launch(ctx context.Context, dir string, in *lab.Namespace, args []string) (*lab.Process, error) {
	p, err := lab.Launch(ctx, m.highwire, dir, in, args...)
	if err != nil {
		return nil, err
	}
	m.later(func() error { return p.Stop(context.WithoutCancel(ctx)) })
	if err := p.AwaitReady(ctx); err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, p.LastWords())
	}
	return p, nil
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
