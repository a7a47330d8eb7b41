package memif

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
	control "highwire/vppapi/memif"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relayed is a direct path between two namespaces, as the forwarder would make it.
type relayed struct {
	m                *Mechanism
	client, endpoint *lab.Namespace
	relay            Relay
}

func newRelayed(t *testing.T) *relayed {
	t.Helper()
	n := kernel.NewNamespaces()
	r := &relayed{m: New(Config{Namespaces: n, Direct: true})}
	t.Cleanup(r.m.Close)
	hold := func() (*lab.Namespace, string) {
		ns, err := lab.New()
		if err != nil {
			t.Skip("no network namespaces here:", err)
		}
		t.Cleanup(func() { _ = ns.Close() })
		id, err := n.Hold(ns.File())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Release(id) })
		return ns, id.String()
	}
	end := func(side mechanisms.Side, inode, socket string) mechanisms.End {
		return mechanisms.End{VWire: "direct", Side: side, Type: mechanisms.Memif, Payload: mechanisms.Ethernet,
			Params: map[string]string{mechanisms.ParamInode: inode, mechanisms.ParamSocket: socket}}
	}
	var from, to string
	r.client, from = hold()
	r.endpoint, to = hold()
	objects, err := r.m.Direct(end(mechanisms.Client, from, "@from"), end(mechanisms.Endpoint, to, "@to"))
	if err != nil || len(objects) != 1 {
		t.Fatal(objects, err)
	}
	r.relay = objects[0].(Relay)
	return r
}

func (r *relayed) listen(t *testing.T) (l *net.UnixListener) {
	t.Helper()
	if err := r.endpoint.Do(func() (err error) {
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: "@to"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (r *relayed) dial(t *testing.T) (c *net.UnixConn) {
	t.Helper()
	if err := r.client.Do(func() (err error) {
		c, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: "@from"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func accept(t *testing.T, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// carries sends a message with a file from one side and checks that both arrive at the other.
func carries(t *testing.T, from, to *net.UnixConn) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	message := bytes.Repeat([]byte{7}, messageBytes)
	if _, _, err := from.WriteMsgUnix(message, unix.UnixRights(int(write.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	got, oob := make([]byte, 2*messageBytes), make([]byte, 64)
	n, oobn, _, _, err := to.ReadMsgUnix(got, oob)
	if err != nil || !bytes.Equal(got[:n], message) {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	fds := control.Descriptors(oob[:oobn])
	if len(fds) != 1 {
		t.Fatalf("%d descriptors arrived, want 1", len(fds))
	}
	file := os.NewFile(uintptr(fds[0]), "pipe")
	if _, err := file.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	// End of file comes only when nobody else, the relay above all, still has the writing end.
	if all, err := io.ReadAll(read); err != nil || string(all) != "x" {
		t.Fatalf("through the descriptor came %q, %v", all, err)
	}
}

// ended reports that the other side has hung up.
func ended(t *testing.T, c *net.UnixConn) {
	t.Helper()
	b := make([]byte, messageBytes)
	if n, err := c.Read(b); err == nil && n > 0 {
		t.Fatalf("got %d bytes, want the end", n)
	} else if os.IsTimeout(err) {
		t.Fatal("not hung up on")
	}
}

func TestRelay(t *testing.T) {
	ctx := context.Background()
	r := newRelayed(t)
	if changed, err := r.relay.Realize(ctx); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if changed, err := r.relay.Realize(ctx); changed || err != nil {
		t.Fatal("realizing again:", changed, err)
	}
	// Nobody listens at the endpoint yet: the client is hung up on and may try again.
	ended(t, r.dial(t))
	listener := r.listen(t)
	client := r.dial(t)
	endpoint := accept(t, listener)
	carries(t, client, endpoint)
	carries(t, endpoint, client)
	// The endpoint restarts.
	_ = endpoint.Close()
	ended(t, client)
	client = r.dial(t)
	endpoint = accept(t, listener)
	carries(t, client, endpoint)
	// Whoever speaks something else is hung up on; the next one is served.
	if _, err := client.Write([]byte("garbage")); err != nil {
		t.Fatal(err)
	}
	ended(t, client)
	ended(t, endpoint)
	client = r.dial(t)
	endpoint = accept(t, listener)
	carries(t, client, endpoint)
	if err := r.relay.Release(ctx); err != nil {
		t.Fatal(err)
	}
	ended(t, client)
	ended(t, endpoint)
	if r.relay.Observe(ctx) {
		t.Error("it still runs")
	}
	if err := r.relay.Release(ctx); err != nil {
		t.Error("releasing twice:", err)
	}
}

func TestRelayTaken(t *testing.T) {
	r := newRelayed(t)
	var taken *net.UnixListener
	if err := r.client.Do(func() (err error) {
		taken, err = net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: "@from"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := r.relay.Realize(context.Background()); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}

func TestParse(t *testing.T) {
	m := New(Config{Namespaces: kernel.NewNamespaces(), Dir: "/run/memif"})
	long := "@" + string(bytes.Repeat([]byte{'x'}, 107))
	for name, c := range map[string]struct {
		side          mechanisms.Side
		inode, socket string
		ok            bool
	}{
		"abstract":                {mechanisms.Client, "inode://4/5", "@a/b.sock", true},
		"abstract, no namespace":  {mechanisms.Client, "", "@a", false},
		"empty name":              {mechanisms.Client, "inode://4/5", "@", false},
		"dots":                    {mechanisms.Client, "inode://4/5", "@../../x", false},
		"too long":                {mechanisms.Endpoint, "inode://4/5", long, false},
		"comma":                   {mechanisms.Endpoint, "inode://4/5", "@a,netns_name=/proc/1/ns/net", false},
		"zero byte":               {mechanisms.Endpoint, "inode://4/5", "@a\x00b", false},
		"bad inode":               {mechanisms.Endpoint, "inode://x", "@a", false},
		"file of the endpoint":    {mechanisms.Endpoint, "inode://4/5", "", true},
		"file in the directory":   {mechanisms.Client, "", "/run/memif/c.sock", true},
		"file somewhere else":     {mechanisms.Client, "", "/etc/passwd", false},
		"file of a client, above": {mechanisms.Client, "", "/run/memif/../x.sock", false},
		"nothing":                 {mechanisms.Endpoint, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.parse(mechanisms.End{VWire: "v", Side: c.side, Params: map[string]string{mechanisms.ParamInode: c.inode, mechanisms.ParamSocket: c.socket}})
			if (err == nil) != c.ok || err != nil && !fault.Is(err, fault.Invalid) {
				t.Errorf("got %v, want ok = %v", err, c.ok)
			}
		})
	}
}

// TestComplete: what we choose for a client passes our own checks.
func TestComplete(t *testing.T) {
	for _, dir := range []string{"", "/run/memif"} {
		m := New(Config{Namespaces: kernel.NewNamespaces(), Dir: dir})
		for _, inode := range []string{"inode://4/5", ""} {
			if dir == "" && inode == "" {
				continue
			}
			e := mechanisms.End{VWire: "b0a1", Side: mechanisms.Client, Params: map[string]string{mechanisms.ParamInode: inode}}
			chosen, err := m.Complete(e)
			maps.Copy(e.Params, chosen)
			if err == nil {
				_, err = m.parse(e)
			}
			if err != nil {
				t.Errorf("dir %q, inode %q: %v", dir, inode, err)
			}
		}
	}
}

var _ vppapi.Observer = Relay{}

// A socket file of an agent that died is taken over; one that somebody listens on is not.
func TestRelayStaleFile(t *testing.T) {
	m := New(Config{Namespaces: kernel.NewNamespaces(), Direct: true, Dir: t.TempDir()})
	t.Cleanup(m.Close)
	dir, err := os.MkdirTemp("", "hw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := Relay{name: "stale:direct", from: location{name: dir + "/m.sock"}, m: m}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: r.from.name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Realize(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("a socket in use: %v", err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if changed, err := r.Realize(t.Context()); err != nil || !changed {
		t.Errorf("a stale one: %v, %v", changed, err)
	}
	if err := r.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(r.from.name); err == nil {
		t.Error("the file stays")
	}
}
