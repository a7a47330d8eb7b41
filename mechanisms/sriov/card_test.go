package sriov

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"highwire/cmd/lab"
	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// card is a real network card with virtual functions; make test-vm has one.
type card struct {
	pool       *Pool
	namespaces *kernel.Namespaces
	kernel     *KernelMechanism
	vfio       *VFIOMechanism
}

func newCard(t *testing.T) card {
	t.Helper()
	pfs, err := Host{}.Scan()
	if err != nil || len(pfs) == 0 || os.Getuid() != 0 {
		t.Skip("there is no network card with SR-IOV here, or no right to use it; make test-vm brings one")
	}
	c := config(pfs[0].Address)
	f := c.PhysicalFunctions[pfs[0].Address]
	f.VFs, f.PFKernelDriver = 4, pfs[0].Driver
	c.PhysicalFunctions[pfs[0].Address] = f
	pool, err := NewPool(PoolConfig{Config: c, Secret: []byte("test"), NUMA: -1})
	if err != nil {
		t.Fatal(err)
	}
	n := kernel.NewNamespaces()
	return card{pool, n, NewKernel(kernel.New(kernel.Config{Namespaces: n, Backing: kernel.Veth}), pool, n), NewVFIO(pool)}
}

// namespace is a peer's, held for the time of the test.
func (c card) namespace(t *testing.T) (*lab.Namespace, mechanisms.Inode) {
	t.Helper()
	ns, err := lab.New()
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.namespaces.Hold(ns.File())
	if err != nil {
		t.Fatal(err)
	}
	return ns, id
}

// end is one with a VF for token number i.
func (c card) end(t *testing.T, side mechanisms.Side, ns mechanisms.Inode, i int, own, remote string) mechanisms.End {
	t.Helper()
	e := mechanisms.End{
		VWire: "card", Side: side, Type: mechanisms.Kernel, Payload: mechanisms.Ethernet,
		Params:    map[string]string{mechanisms.ParamInode: ns.String(), mechanisms.ParamName: "nsm-1", ParamToken: c.pool.Tokens()[blue][i]},
		Addresses: []netip.Prefix{netip.MustParsePrefix(own)}, Remote: []netip.Prefix{netip.MustParsePrefix(remote)},
		Routes: []mechanisms.Route{{Prefix: netip.MustParsePrefix(remote)}},
	}
	chosen, err := c.kernel.Complete(e)
	if err != nil {
		t.Fatal(err)
	}
	e.Params[ParamPCI] = chosen[ParamPCI]
	if err := c.kernel.Hold(e); err != nil {
		t.Fatal(err)
	}
	return e
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// realize makes the objects in the order of their kinds, as a plan would.
func realize(t *testing.T, objects []vppapi.Object) {
	t.Helper()
	slices.SortStableFunc(objects, func(a, b vppapi.Object) int { return int(a.Key().Kind - b.Key().Kind) })
	for _, o := range objects {
		t.Log(o)
		if _, err := o.(vppapi.Local).Realize(within(t)); err != nil {
			t.Fatalf("%s: %v", o, err)
		}
	}
}

// eventually tries until try succeeds: what the kernel does in its own time says nothing when it is done.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx := within(t)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Two VFs lent as kernel interfaces: packets pass through the card's own switch, and both come back under their old names.
func TestCardKernel(t *testing.T) {
	c := newCard(t)
	before := names(t)
	ns1, id1 := c.namespace(t)
	ns2, id2 := c.namespace(t)
	client := c.end(t, mechanisms.Client, id1, 0, "172.16.1.2/32", "172.16.1.3/32")
	endpoint := c.end(t, mechanisms.Endpoint, id2, 1, "172.16.1.3/32", "172.16.1.2/32")
	objects, err := c.kernel.Direct(client, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	realize(t, objects)
	for _, o := range objects {
		if l, ok := o.(Lent); ok && !l.Observe(within(t)) {
			t.Errorf("not as it should be: %s", l)
		}
	}
	t.Run("packets", func(t *testing.T) {
		if err := ns1.Do(func() error { return linked("nsm-1") }); err != nil {
			t.Skip("the card gives its VFs no link, as QEMU's igb does: ", err)
		}
		eventually(t, "ping", func() error {
			echoes, err := ns1.Ping(within(t), netip.MustParseAddr("172.16.1.3"), 1)
			if err == nil && echoes.Received == 0 {
				err = errors.New("no answer")
			}
			return err
		})
	})
	// Again changes nothing.
	for _, o := range objects {
		if changed, err := o.(vppapi.Local).Realize(within(t)); changed || err != nil {
			t.Errorf("%s again: changed %v, %v", o, changed, err)
		}
	}
	// The peer may rename what it was given.
	if err := ns2.Do(func() error {
		link, err := netlink.LinkByName("nsm-1")
		if err == nil {
			err = errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, "mine"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(objects)
	for _, o := range objects {
		if err := o.(vppapi.Local).Release(within(t)); err != nil {
			t.Errorf("release %s: %v", o, err)
		}
	}
	c.kernel.Drop(client)
	c.kernel.Drop(endpoint)
	if after := names(t); !slices.Equal(after, before) {
		t.Errorf("interfaces were %v, are %v", before, after)
	}
	for _, d := range c.pool.Devices() {
		if d.Owner != "" {
			t.Errorf("%s still belongs to %s", d.Address, d.Owner)
		}
	}
	_, _ = ns1.Close(), ns2.Close()
	c.namespaces.Release(id1)
	c.namespaces.Release(id2)
}

// linked waits a few seconds for the interface's carrier, which comes without a word to us.
func linked(name string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil || link.Attrs().OperState == netlink.OperUp {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s", name, link.Attrs().OperState)
		}
	}
}

// names of the interfaces here, for as long as drivers and udev may still be at work when a test begins.
func names(t *testing.T) []string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, l := range links {
		list = append(list, l.Attrs().Name)
	}
	slices.Sort(list)
	return list
}

// The namespace dies with the VF in it: the kernel brings it back, and Release gives it its name.
func TestCardNamespaceDies(t *testing.T) {
	c := newCard(t)
	before := names(t)
	ns, id := c.namespace(t)
	e := c.end(t, mechanisms.Client, id, 0, "172.16.1.2/32", "172.16.1.3/32")
	l, err := c.pool.lent(c.namespaces, e)
	if err != nil {
		t.Fatal(err)
	}
	realize(t, []vppapi.Object{l})
	if slices.Equal(names(t), before) {
		t.Fatal("the VF did not go anywhere")
	}
	c.kernel.Drop(e)
	c.namespaces.Release(id)
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VF comes back", func() error { return l.Release(within(t)) })
	if after := names(t); !slices.Equal(after, before) {
		t.Errorf("interfaces were %v, are %v", before, after)
	}
}

// A VF lent to user space can be opened by the processes of one cgroup, until it is taken back; then it is a kernel
// interface again.
func TestCardVFIO(t *testing.T) {
	c := newCard(t)
	const group = "/highwire-test-pods/pod1"
	dir := filepath.Join(c.pool.cfg.Access.root(), group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir); _ = os.Remove(filepath.Dir(dir)) })
	forbidAll(t, dir)
	e := mechanisms.End{
		VWire: "card", Side: mechanisms.Client, Type: mechanisms.VFIO, Payload: mechanisms.Ethernet,
		Params: map[string]string{ParamToken: c.pool.Tokens()[blue][0], ParamCgroup: group},
	}
	answer, err := c.vfio.Complete(e)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range answer {
		e.Params[k] = v
	}
	if err := c.vfio.Hold(e); err != nil {
		t.Fatal(err)
	}
	v, err := c.pool.passed(e)
	if err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(t.TempDir(), "group")
	major, _ := strconv.Atoi(e.Params[ParamDeviceMajor])
	minor, _ := strconv.Atoi(e.Params[ParamDeviceMinor])
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(major), uint32(minor)))); err != nil {
		t.Fatal(err)
	}
	if out, err := openIn(t, dir, node); err == nil {
		t.Fatal("the cgroup may open the device before it was lent", out)
	}
	realize(t, []vppapi.Object{v, v}) // twice is once
	if !v.Observe(within(t)) {
		t.Error("not as it should be:", v)
	}
	if out, err := openIn(t, dir, node); err != nil {
		t.Errorf("the cgroup cannot open the device: %v %s", err, out)
	}
	if out, err := openIn(t, dir, "/dev/null"); err == nil {
		t.Error("the cgroup may open other devices now", out)
	}
	for range 2 {
		if err := v.Release(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := openIn(t, dir, node); err == nil {
		t.Error("the cgroup may still open the device", out)
	}
	c.vfio.Drop(e)
	// The next one may want it as a kernel interface.
	if err := c.pool.cfg.Host.Bind(e.Params[ParamPCI], "igbvf"); err != nil {
		t.Error(err)
	}
}

// forbidAll attaches what a container runtime would: a program that allows no device.
func forbidAll(t *testing.T, dir string) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupDevice, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(f.Fd()), Program: program, Attach: ebpf.AttachCGroupDevice, Flags: 1 << 1})
	if err != nil {
		t.Fatal(err)
	}
}

// openIn opens a file from a process in the cgroup.
func openIn(t *testing.T, cgroup, file string) (string, error) {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.CommandContext(within(t), "/bin/sh", "-c", "exec 3<>"+file)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
