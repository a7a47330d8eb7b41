package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"highwire/cmd/lab"
	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/controlplane/identity"
)

// service is what the endpoint of a mesh offers.
const service = "bench"

// nodeAddrs are the addresses of two nodes on the network between them.
var nodeAddrs = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.1/24"), netip.MustParsePrefix("198.18.0.2/24")}

// mesh is an agent and an endpoint, each a process of its own. Who gives them and the clients, which are here, an identity is here too.
type mesh struct {
	dir, highwire   string
	agent, endpoint *lab.Process
	agentArgs       []string
	admin           *grpc.ClientConn
	nodes           [2]*lab.Namespace // of the agents, where there are two
	undo            []func() error    // newest last
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
	// payload of the service, empty for the endpoint's default.
	payload string
	// nodes: the endpoint is on a node of its own, with another agent.
	nodes bool
	// netns is the path of the namespace of the endpoint's interfaces, empty for one of its own.
	netns string
	// log is the level of the agent's and the endpoint's logs, empty for error.
	log string
	// lifetime of identities and so of what is not refreshed, 0 for an hour.
	lifetime time.Duration
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
	if err = m.identities(ctx, cmp.Or(c.lifetime, time.Hour)); err != nil {
		return m, err
	}
	workload, target, other := "unix://"+m.workload(), m.target(), m.target()
	level := cmp.Or(c.log, "error")
	m.agentArgs = append(append([]string{"agent", "--data", m.path("data"), "--listen", target, "--admin", m.path("admin.sock"),
		"--spiffe-socket", workload, "--log-level", level}, c.dataplane...), c.agent...)
	if c.nodes {
		other, err = m.startNodes(ctx, m.agentArgs, workload, append(c.dataplane, c.agent...))
	} else {
		m.later(func() error {
			if m.agent == nil {
				return nil
			}
			return m.agent.Stop(context.WithoutCancel(ctx))
		})
		err = m.startAgent(ctx)
	}
	if err != nil {
		return m, err
	}
	endpoint := []string{"endpoint", "--connect-to", other, "--spiffe-socket", workload, "--log-level", level,
		"--service", service, "--cidr", "10.0.0.0/16", "--mechanism", c.mechanism}
	if c.netns != "" {
		endpoint = append(endpoint, "--netns", c.netns)
	} else {
		endpoint = append(endpoint, "--own-netns")
	}
	if c.payload != "" {
		endpoint = append(endpoint, "--payload", c.payload)
	}
	if m.endpoint, err = m.launch(ctx, m.dir, nil, endpoint); err != nil {
		return m, err
	}
	m.admin, err = grpc.NewClient("unix://"+m.path("admin.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return m, err
	}
	m.later(m.admin.Close)
	return m, nil
}

func (m *mesh) later(fn func() error) { m.undo = append(m.undo, fn) }

func (m *mesh) path(name string) string { return filepath.Join(m.dir, name) }

// workload is the socket of the Workload API.
func (m *mesh) workload() string { return m.path("workload.sock") }

// identities serves the Workload API. Everybody who asks gets an identity of its own, as pods do.
func (m *mesh) identities(ctx context.Context, lifetime time.Duration) error {
	var asked atomic.Int64
	ca, err := identity.NewCA("bench.highwire", m.path("ca"), identity.WithSVIDLifetime(lifetime), identity.WithIDs(func(identity.Process) string {
		return fmt.Sprintf("/member-%d", asked.Add(1))
	}))
	if err != nil {
		return err
	}
	serving := start(context.WithoutCancel(ctx), func(ctx context.Context) error { return ca.Serve(ctx, m.workload()) })
	m.later(func() error { serving.stop(); return nil })
	return nil
}

// target is where the agent listens.
func (m *mesh) target() string { return "unix://" + m.path("nsm.sock") }

// startNodes starts the clients' agent on one node and another agent on a second one, where the endpoint is to be, and returns
// where that listens.
func (m *mesh) startNodes(ctx context.Context, agent []string, workload string, flags []string) (target string, err error) {
	for i := range m.nodes {
		if m.nodes[i], err = lab.New(); err != nil {
			return "", err
		}
		m.later(m.nodes[i].Close)
	}
	if err := lab.Join("wire0", m.nodes[0], m.nodes[1], nodeAddrs[:1], nodeAddrs[1:]); err != nil {
		return "", err
	}
	url := func(i int) string { return "tcp://" + netip.AddrPortFrom(nodeAddrs[i].Addr(), 5001).String() }
	if m.agent, err = m.launch(ctx, m.dir, m.nodes[0], append(agent, "--name", "near", "--uplink", "wire0", "--listen", url(0))); err != nil {
		return "", err
	}
	far := m.path("far")
	if err := os.Mkdir(far, 0o700); err != nil {
		return "", err
	}
	target = "unix://" + filepath.Join(far, "nsm.sock")
	_, err = m.launch(ctx, far, m.nodes[1], append([]string{"agent", "--name", "far", "--data", filepath.Join(far, "data"), "--listen", target, "--listen", url(1),
		"--admin", filepath.Join(far, "admin.sock"), "--spiffe-socket", workload, "--registry", url(0), "--uplink", "wire0", "--log-level", "error"}, flags...))
	return target, err
}

func (m *mesh) launch(ctx context.Context, dir string, in *lab.Namespace, args []string) (*lab.Process, error) {
	p, err := lab.Launch(ctx, m.highwire, dir, in, args...)
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

// cpu is what everybody has used so far: clients, agent, endpoint, and the VPP that the agent launched.
func (m *mesh) cpu() (sum time.Duration, err error) {
	pids := []int{os.Getpid(), m.agent.PID(), m.endpoint.PID()}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.agent.PID()))
	if err != nil {
		return 0, err
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		u, err := usageOf(pid)
		if err != nil {
			return 0, err
		}
		sum += u.cpu
	}
	return sum, nil
}
