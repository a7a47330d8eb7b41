package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"highwire/cmd/lab"
	"highwire/vppapi/process"
)

// node is an agent with a command line for those that lean on it.
type node struct {
	t   *testing.T
	exe string
	dir string
	// space is the network namespace of the agent, nil for the test's.
	space *lab.Namespace
	// identities is where everybody gets theirs, empty for the node's own development CA.
	identities string
	agent      *program
	args       []string // of the agent
}

// within bounds what a test waits for.
const within = 30 * time.Second

// newNode starts an agent as a process and waits until it serves.
func newNode(t *testing.T, exe string, flags ...string) *node {
	t.Helper()
	n := nodeFiles(t, exe)
	n.serve(flags...)
	return n
}

// nodeFiles is a node without an agent yet.
func nodeFiles(t *testing.T, exe string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "hw-n-") // sockets' paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &node{t: t, exe: exe, dir: dir}
}

// workload is where members of the node get their identity.
func (n *node) workload() string {
	if n.identities != "" {
		return n.identities
	}
	return "unix://" + n.path("wl.sock")
}

// serve starts the agent.
func (n *node) serve(flags ...string) {
	n.t.Helper()
	n.args = append([]string{"agent", "--data", n.path("data"), "--listen", "unix://" + n.path("nsm.sock"),
		"--admin", n.path("admin.sock"), "--workload-socket", n.path("wl.sock")}, flags...)
	if n.identities != "" {
		n.args = append(n.args, "--spiffe-socket", n.identities)
	}
	n.restart()
}

// restart starts an agent where none runs, with the data of the one before.
func (n *node) restart() {
	n.t.Helper()
	n.agent = n.startIn(n.space, n.args...)
	n.agent.await("msg=ready")
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

// join starts a client or an endpoint.
func (n *node) join(args ...string) *program {
	n.t.Helper()
	return n.joinIn(nil, args...)
}

// joinIn starts it in a network namespace, as in a pod.
func (n *node) joinIn(space *lab.Namespace, args ...string) *program {
	n.t.Helper()
	return n.startIn(space, append(args, "--connect-to", "unix://"+n.path("nsm.sock"), "--spiffe-socket", n.workload())...)
}

// program is a highwire process of a test; its output is gathered.
type program struct {
	t   *testing.T
	cmd *exec.Cmd

	mu     sync.Mutex
	out    bytes.Buffer
	more   chan struct{} // closed with every write
	exited chan struct{}
}

func (n *node) start(args ...string) *program {
	n.t.Helper()
	return n.startIn(nil, args...)
}

func (n *node) startIn(space *lab.Namespace, args ...string) *program {
	n.t.Helper()
	p := &program{t: n.t, cmd: exec.Command(n.exe, args...), more: make(chan struct{}), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "TMPDIR="+n.dir)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	start := p.cmd.Start
	if space != nil {
		start = func() error { return space.Do(p.cmd.Start) }
	}
	if err := start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	n.t.Cleanup(func() { p.end(syscall.SIGTERM) })
	return p
}

// Write takes output.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.more)
	p.more = make(chan struct{})
	return p.out.Write(b)
}

// text is all output so far.
func (p *program) text() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String(), p.more
}

// awaitN returns once the output has these words n times.
func (p *program) awaitN(n int, words string) {
	p.t.Helper()
	late := time.After(within)
	for {
		text, more := p.text()
		if strings.Count(text, words) >= n {
			return
		}
		select {
		case <-more:
		case <-p.exited:
			p.t.Fatalf("%s ended without saying %q %d times:\n%s", p.cmd.Args[1], words, n, text)
		case <-late:
			p.t.Fatalf("%s does not say %q %d times:\n%s", p.cmd.Args[1], words, n, text)
		}
	}
}

func (p *program) await(words string) { p.t.Helper(); p.awaitN(1, words) }

// end signals the program and waits for it.
func (p *program) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.exited:
	case <-time.After(within):
		_ = p.cmd.Process.Kill()
		<-p.exited
		text, _ := p.text()
		p.t.Errorf("%s did not end:\n%s", p.cmd.Args[1], text)
	}
}

// vwires asks the agent.
func (n *node) vwires() (list []struct{ State, Datapath, Error string }) {
	n.t.Helper()
	out, err := exec.Command(n.exe, "get", "vwires", "-o", "json", "--admin", n.path("admin.sock")).CombinedOutput()
	if err == nil {
		err = json.Unmarshal(out, &list)
	}
	if err != nil {
		n.t.Fatalf("get vwires: %v\n%s", err, out)
	}
	return list
}

// space is a network namespace for the test.
func space(t *testing.T) *lab.Namespace {
	t.Helper()
	ns, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// onVPPs runs a test with pocketvpp and with the real VPP.
func onVPPs(t *testing.T, test func(t *testing.T, vpp string)) {
	t.Helper()
	needNamespaces(t)
	for _, vpp := range []string{pocket, spawn} {
		t.Run(vpp, func(t *testing.T) {
			if _, err := process.Find(os.Getenv("HIGHWIRE_VPP_BIN")); vpp == spawn && err != nil {
				t.Skip("no VPP here: set HIGHWIRE_VPP_BIN or put vpp on PATH")
			}
			test(t, vpp)
		})
	}
}

// reaches pings until one echo is answered.
func reaches(t *testing.T, from *lab.Namespace, to string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		e, err := from.Ping(ctx, netip.MustParseAddr(to), 1)
		if ctx.Err() != nil {
			t.Fatalf("no answer from %s", to)
		}
		if err == nil && e.Received > 0 {
			return
		}
	}
}

// Every pair through VPP, and two memifs without it, in both payloads.
func TestMemifPairs(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		for _, direct := range []string{never, auto} {
			n := newNode(t, exe, "--vpp", vpp, "--memif-direct", direct)
			for _, c := range []struct{ client, endpoint string }{{"memif", "memif"}, {"memif", "kernel"}, {"kernel", "memif"}} {
				for _, payload := range []string{"ETHERNET", "IP"} {
					name := strings.ToLower(c.client + "-" + c.endpoint + "-" + payload)
					datapath := "vpp"
					if c.client == c.endpoint && direct == auto {
						datapath = "direct"
					} else if direct == auto {
						continue
					}
					t.Run(name+" "+datapath, func(t *testing.T) { n.t = t; pair(t, n, name, c.client, c.endpoint, payload, datapath) })
				}
			}
			n.t = t
			n.agent.end(syscall.SIGTERM)
		}
	})
}

func pair(t *testing.T, n *node, service, client, endpoint, payload, datapath string) {
	from, to := space(t), space(t)
	nse := n.join("endpoint", "--name", "nse-"+service, "--service", service, "--cidr", "172.16.1.0/24", "--cidr", "fd16::/64",
		"--payload", payload, "--mechanism", endpoint, "--netns", to.Path())
	nse.await("registered ")
	args := []string{"client", "--name", "nsc-" + service, "--netns", from.Path(), client + "://" + service + "/nsm-1"}
	if client == "memif" {
		args = append(args, "--ping", "5", "--generate", "50ms", "--rate", "2000", "--size", "200")
	}
	nsc := n.join(args...)
	nsc.await("connected " + client)
	for _, addr := range []string{"172.16.1.2", "fd16::2"} {
		if client == "kernel" {
			reaches(t, from, addr)
			continue
		}
		nsc.await("ping " + addr + ": 5 sent")
	}
	if client == "memif" {
		nsc.await("generated to 172.16.1.2")
	}
	if list := n.vwires(); len(list) != 1 || list[0].State != "up" || list[0].Datapath != datapath {
		t.Errorf("vWires %+v; want one up, %s", list, datapath)
	}
	nsc.end(syscall.SIGTERM)
	nse.end(syscall.SIGTERM)
	if list := n.vwires(); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
	said, _ := nsc.text()
	if strings.Contains(said, " 0 received") || client == "memif" && (!strings.Contains(said, "counters memif") || strings.Count(said, "memif connected") != 1) {
		t.Errorf("client: %s", said)
	}
	if said, _ := nse.text(); endpoint == "memif" && !strings.Contains(said, "counters ") {
		t.Errorf("endpoint: %s", said)
	}
}

// VPP dies: the memif is connected again without any Request, and packets are back.
func TestMemifSurvivesVPP(t *testing.T) {
	exe := binary(t)
	needNamespaces(t)
	if _, err := process.Find(os.Getenv("HIGHWIRE_VPP_BIN")); err != nil {
		t.Skip("no VPP here: set HIGHWIRE_VPP_BIN or put vpp on PATH")
	}
	n := newNode(t, exe, "--vpp", spawn, "--memif-direct", never)
	from, to := space(t), space(t)
	nse := n.join("endpoint", "--service", "web", "--cidr", "172.16.1.0/24", "--mechanism", "memif", "--netns", to.Path())
	nse.await("registered ")
	kernel := n.join("client", "--name", "kernel", "--netns", from.Path(), "kernel://web/nsm-1")
	kernel.await("connected ")
	fast := n.join("client", "--name", "fast", "--netns", from.Path(), "--ping", "3", "memif://web/fast")
	fast.await("3 sent")
	reaches(t, from, "172.16.1.2")
	pid, err := child(n.agent.cmd.Process.Pid, "vpp")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	fast.awaitN(2, "memif connected")
	reaches(t, from, "172.16.1.2")
	if said, _ := nse.text(); strings.Count(said, "\nopened ") != 2 {
		t.Errorf("the endpoint was asked again:\n%s", said)
	}
}

// child finds a process that another one started.
func child(parent int, name string) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that has ended
		}
		for _, field := range strings.Fields(string(text)) {
			comm, _ := os.ReadFile("/proc/" + field + "/comm")
			var pid int
			if _, err := fmt.Sscan(field, &pid); err == nil && strings.HasPrefix(string(comm), name) {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("process %d has no child %s", parent, name)
}

// Either peer is killed and started again: packets are back, and one vWire is left, direct and through VPP.
func TestMemifPeersRestart(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		for _, direct := range []string{never, auto} {
			t.Run("direct "+direct, func(t *testing.T) {
				n := newNode(t, exe, "--vpp", vpp, "--memif-direct", direct)
				from, to := space(t), space(t)
				endpoint := []string{"endpoint", "--name", "nse", "--service", "web", "--cidr", "172.16.1.0/24", "--mechanism", "memif", "--netns", to.Path()}
				client := []string{"client", "--name", "nsc", "--netns", from.Path(), "--ping", "3", "memif://web/fast"}
				nse := n.join(endpoint...)
				nse.await("registered ")
				nsc := n.join(client...)
				nsc.await("3 sent")
				nse.end(syscall.SIGKILL)
				nse = n.join(endpoint...)
				nse.await("registered ")
				nsc.awaitN(2, "3 sent")
				nsc.end(syscall.SIGKILL)
				again := n.join(client...)
				again.await("3 sent")
				for _, p := range []*program{nsc, again} {
					if said, _ := p.text(); strings.Contains(said, " 0 received") || strings.Contains(said, "failed:") {
						t.Errorf("no packet came through:\n%s", said)
					}
				}
				if list := n.vwires(); len(list) != 1 || list[0].State != "up" {
					t.Errorf("vWires %+v", list)
				}
			})
		}
	})
}

func TestMemifUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"client", "srv6://web"}, "neither kernel nor memif"},
		{[]string{"client", "--ping", "-1", "memif://web"}, "must not be negative"},
		{[]string{"client", "--size", "20", "memif://web"}, "64 to 9216"},
		{[]string{"endpoint", "--mechanism", "srv6"}, "want kernel or memif"},
		{[]string{"demo", "--mechanism", "srv6"}, "want kernel or memif"},
		{[]string{"demo", "--memif-direct", "sometimes"}, "want auto or never"},
	} {
		code, stdout, stderr := execute(t, c.args...)
		if code != exitUsage || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("highwire %s: exit %d, want %d saying %q:\n%s%s", strings.Join(c.args, " "), code, exitUsage, c.says, stdout, stderr)
		}
	}
}
