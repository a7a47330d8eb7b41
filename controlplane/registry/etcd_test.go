package registry

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	registryapi "highwire/controlplane/api/registry"
)

// etcd is a real one that the test runs, and can stop and start again.
type etcd struct {
	t            *testing.T
	bin, dir     string
	client, peer string // addresses
	more         []string
	stop         func()
}

// startEtcd runs an etcd on the loopback until the test ends; where there is none the test is skipped.
func startEtcd(t *testing.T, more ...string) *etcd {
	t.Helper()
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("no etcd on PATH (Debian's package is etcd-server)")
	}
	e := &etcd{t: t, bin: bin, dir: t.TempDir(), client: freePort(t), peer: freePort(t), more: more}
	e.start()
	t.Cleanup(func() { e.stop() })
	return e
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (e *etcd) start() {
	e.t.Helper()
	args := append([]string{
		"--data-dir", e.dir, "--name", "test", "--logger", "zap", "--log-level", "error",
		"--listen-client-urls", "http://" + e.client, "--advertise-client-urls", "http://" + e.client,
		"--listen-peer-urls", "http://" + e.peer, "--initial-advertise-peer-urls", "http://" + e.peer, "--initial-cluster", "test=http://" + e.peer,
	}, e.more...)
	cmd := exec.Command(e.bin, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if e.t.Failed() {
			e.t.Logf("etcd said:\n%s", output.String())
		}
	})
}

// open opens a store in it, and waits until it follows.
func (e *etcd) open() *Etcd {
	e.t.Helper()
	store, err := OpenEtcd(EtcdConfig{Endpoints: []string{"http://" + e.client}, probe: 500 * time.Millisecond})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = store.Close() })
	follows(e.t, store)
	return store
}

func follows(t *testing.T, store interface{ Settled() <-chan struct{} }) {
	t.Helper()
	select {
	case <-store.Settled():
	case <-time.After(time.Minute):
		t.Fatal("the store does not follow what is shared")
	}
}

// etcdNodes are agents that share an etcd.
func (m *mesh) etcdNodes(e *etcd, names ...string) (nodes []*node) {
	m.t.Helper()
	for _, name := range names {
		nodes = append(nodes, m.nodeOver(m.source("/"+name), e.open()))
	}
	return nodes
}

func TestEtcdThreeAgents(t *testing.T) {
	t.Parallel()
	e, m := startEtcd(t), newMesh(t)
	threeAgents(t, m, m.etcdNodes(e, "a", "b", "c"))
}

func TestEtcdOneOwner(t *testing.T) {
	t.Parallel()
	e, m := startEtcd(t), newMesh(t)
	oneOwner(t, m, m.etcdNodes(e, "a", "b", "c"))
}

// What an agent that died had registered goes when its lease runs out.
func TestEtcdExpiry(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	m := newMesh(t)
	dead, alive := e.open(), m.etcdNodes(e, "alive")[0]
	ctx := m.timeout(2 * time.Minute)
	short := &registryapi.NetworkServiceEndpoint{Name: "short", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1", ExpirationTime: inSeconds(3)}
	if err := dead.PutEndpoint(ctx, short); err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	alive.sees("short", withURL(short.Url))
	alive.sees("short", nil)
}

// While etcd is away agents go on with what they have and take registrations; when it is back everybody has them.
func TestEtcdRestarts(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	m := newMesh(t)
	nodes := m.etcdNodes(e, "a", "b")
	a, b := nodes[0], nodes[1]
	nse := m.source("/nse")
	a.register(nse, "before", "s")
	b.sees("before", withURL(a.public))
	e.stop()
	a.register(nse, "meanwhile", "s")
	if _, err := b.reg.Endpoint(m.timeout(time.Minute), "before"); err != nil {
		t.Errorf("while etcd is away: %v", err)
	}
	e.start()
	b.sees("meanwhile", withURL(a.public))
	b.register(nse, "after", "s")
	a.sees("after", withURL(b.public))

	// Another etcd at the same address, which knows nothing.
	e.stop()
	if err := os.RemoveAll(filepath.Join(e.dir, "member")); err != nil {
		t.Fatal(err)
	}
	e.more = append(e.more, "--initial-cluster-token", "another")
	e.start()
	fresh := m.etcdNodes(e, "c")[0]
	for name, at := range map[string]*node{"before": a, "meanwhile": a, "after": b} {
		fresh.sees(name, withURL(at.public))
	}
}

// An agent that was cut off for so long that etcd has forgotten what happened since reads all anew: what went is gone, what came
// is there.
func TestEtcdCompaction(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	m := newMesh(t)
	direct := e.open()
	cut := newCable(t, e.client)
	store, err := OpenEtcd(EtcdConfig{Endpoints: []string{"http://" + cut.address}, probe: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	follows(t, store)
	n := m.nodeOver(m.source("/n"), store)
	ctx := m.timeout(2 * time.Minute)
	put := func(name string) {
		t.Helper()
		if err := direct.PutEndpoint(ctx, &registryapi.NetworkServiceEndpoint{Name: name, Url: "tcp://127.0.0.1:1", ExpirationTime: inSeconds(600)}); err != nil {
			t.Fatal(err)
		}
	}
	put("stays")
	put("goes")
	n.sees("goes", withURL("tcp://127.0.0.1:1"))
	cut.unplug()
	if err := direct.DeleteEndpoint(ctx, "goes"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		put("comes")
	}
	now, err := direct.client.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := direct.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	cut.plug()
	n.sees("comes", withURL("tcp://127.0.0.1:1"))
	n.sees("goes", nil)
	n.sees("stays", withURL("tcp://127.0.0.1:1"))
}

// cable is a TCP connection to an address that can be unplugged.
type cable struct {
	t           *testing.T
	address, to string
	mu          sync.Mutex
	listener    net.Listener
	open        []net.Conn
	done        sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	c := &cable{t: t, address: freePort(t), to: to}
	c.plug()
	t.Cleanup(c.unplug)
	return c
}

func (c *cable) plug() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.listener = l
	c.mu.Unlock()
	c.done.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", c.to)
			if err != nil {
				_ = near.Close()
				continue
			}
			c.mu.Lock()
			c.open = append(c.open, near, far)
			c.mu.Unlock()
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				c.done.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
				})
			}
		}
	})
}

func (c *cable) unplug() {
	c.mu.Lock()
	_ = c.listener.Close()
	for _, conn := range c.open {
		_ = conn.Close()
	}
	c.open = nil
	c.mu.Unlock()
	c.done.Wait()
}
