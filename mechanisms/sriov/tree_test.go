package sriov

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// tree is a sysfs of the test's own making.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T) tree {
	t.Helper()
	tr := tree{t, t.TempDir()}
	for _, d := range []string{"igb", "igbvf", vfioDriver} {
		tr.file("bus/pci/drivers/"+d+"/bind", "")
		tr.file("bus/pci/drivers/"+d+"/unbind", "")
	}
	tr.file("bus/pci/devices/0000:00:1f.2/numa_node", "0\n") // no network card
	return tr
}

func (tr tree) host() Host { return Host{Sys: tr.dir} }

func (tr tree) file(name, text string) {
	tr.t.Helper()
	path := filepath.Join(tr.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) link(name, to string) {
	tr.t.Helper()
	path := filepath.Join(tr.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	_ = os.Remove(path)
	if err := os.Symlink(to, path); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) read(name string) string {
	tr.t.Helper()
	text, err := os.ReadFile(filepath.Join(tr.dir, name))
	if err != nil {
		tr.t.Fatal(err)
	}
	return string(text)
}

// pf adds a physical function with n VFs at 0000:<bus>:10.x, each in the IOMMU group that group gives it.
func (tr tree) pf(bus, numa, n int, group func(vf int) int) string {
	tr.t.Helper()
	pf := fmt.Sprintf("0000:%02x:00.0", bus)
	dir := "bus/pci/devices/" + pf
	tr.file(dir+"/sriov_totalvfs", "7\n")
	tr.file(dir+"/sriov_numvfs", strconv.Itoa(n)+"\n")
	tr.file(dir+"/numa_node", strconv.Itoa(numa)+"\n")
	tr.link(dir+"/driver", "../../drivers/igb")
	tr.file(fmt.Sprintf("%s/net/pf%d/carrier", dir, bus), "1\n")
	for i := range n {
		tr.vf(pf, bus, i, group(i))
	}
	return pf
}

func (tr tree) vf(pf string, bus, i, group int) string {
	a := fmt.Sprintf("0000:%02x:10.%d", bus, i)
	dir := "bus/pci/devices/" + a
	tr.link(fmt.Sprintf("bus/pci/devices/%s/virtfn%d", pf, i), "../"+a)
	tr.link(dir+"/physfn", "../"+pf)
	tr.link(dir+"/driver", "../../drivers/igbvf")
	tr.file(dir+"/driver_override", "")
	tr.file(fmt.Sprintf("%s/net/vf%d_%d/carrier", dir, bus, i), "0\n")
	if group >= 0 {
		tr.link(dir+"/iommu_group", fmt.Sprintf("../../../../kernel/iommu_groups/%d", group))
		tr.file(fmt.Sprintf("class/vfio/%d/dev", group), fmt.Sprintf("240:%d\n", group))
	}
	tr.file("class/misc/vfio/dev", "10:196\n")
	return a
}

// own gives each VF an IOMMU group of its own.
func own(base int) func(int) int { return func(vf int) int { return base + vf } }

// none: there is no IOMMU.
func none(int) int { return -1 }

const blue = "blue/10G"

func config(pfs ...string) Config {
	c := Config{PhysicalFunctions: map[string]Function{}}
	for _, a := range pfs {
		c.PhysicalFunctions[a] = Function{VFKernelDriver: "igbvf", Capabilities: []string{"10G", "intel"}, ServiceDomains: []string{"blue"}}
	}
	return c
}

func (tr tree) pool(numa int, pfs ...string) *Pool {
	tr.t.Helper()
	p, err := NewPool(PoolConfig{Host: tr.host(), Config: config(pfs...), Secret: []byte("test"), NUMA: numa})
	if err != nil {
		tr.t.Fatal(err)
	}
	return p
}
