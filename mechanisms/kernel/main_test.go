package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/vppapi"
)

// TestMain runs the tests again in a network namespace of their own: the agent's half of a link stands in that of the
// process. Who is not root becomes it in a user namespace. Where neither is allowed, the tests that need it skip.
func TestMain(m *testing.M) {
	const inside = "HIGHWIRE_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Println("no network namespace for these tests:", err)
		goleak.VerifyTestMain(m)
	}
}

// A process of this mode sets its main thread to the namespaces of its descriptors 3 and 4 by turns, until its input ends.
const wandering = "HIGHWIRE_TEST_WANDER"

func init() {
	if os.Getenv(wandering) == "" {
		return
	}
	runtime.LockOSThread() // in init this is the main thread, whose namespace /proc shows for the process
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	for fd := 3; ; fd = 7 - fd {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
	}
}

// newNamespace is a peer's network namespace, held in n for the time of the test.
func newNamespace(t *testing.T, n *Namespaces) (*lab.Namespace, mechanisms.Inode) {
	t.Helper()
	ns, err := lab.New()
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to make network namespaces here (root is needed)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	id, err := n.Hold(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Release(id) })
	return ns, id
}

// do runs netlink calls in the namespace.
func do(t *testing.T, ns *lab.Namespace, fn func() error) {
	t.Helper()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// vethIn makes a veth pair x, y in the namespace.
func vethIn(t *testing.T, ns *lab.Namespace, x, y string) {
	t.Helper()
	do(t, ns, func() error {
		link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: y}
		link.Name = x
		return netlink.LinkAdd(link)
	})
}

// local picks the end's object of a kind of the kernel.
func local(t *testing.T, m *Mechanism, e mechanisms.End, k vppapi.Kind) vppapi.Local {
	t.Helper()
	list, err := m.Objects(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if l, ok := o.(vppapi.Local); ok && o.Key().Kind == k && o.Key().Name == e.Name() {
			return l
		}
	}
	t.Fatalf("no %s of %s", k, e.Name())
	return nil
}

// realize says whether anything had to be done.
func realize(t *testing.T, l vppapi.Local) (changed bool) {
	t.Helper()
	changed, err := l.Realize(within(t))
	if err != nil {
		t.Fatalf("%s: %v", l.Key(), err)
	}
	return changed
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
