package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"highwire/vppapi/fault"
)

// Host is a node's hardware as sysfs shows it.
type Host struct {
	// Sys is where sysfs is mounted, empty for /sys.
	Sys string
}

// PF is a physical function that can have VFs.
type PF struct {
	// Address on the PCI bus.
	Address string
	// Driver, empty for none; Interface is its name in the agent's network namespace, empty for none there.
	Driver, Interface string
	// Up: the link has a carrier.
	Up bool
	// NUMA node, -1 where the machine has none.
	NUMA int
	// MaxVFs that it can have.
	MaxVFs int
	// VFs in order of their numbers.
	VFs []VF
}

// VF is a virtual function.
type VF struct {
	Address string
	// Number at its PF, from 0.
	Number int
	// Driver, empty for none; Interface is its name in the agent's network namespace, empty for none there.
	Driver, Interface string
	// Group is its IOMMU group, -1 where there is no IOMMU.
	Group int
}

func (h Host) path(parts ...string) string {
	return filepath.Join(append([]string{cmp.Or(h.Sys, "/sys")}, parts...)...)
}

func (h Host) device(address string, parts ...string) string {
	return h.path(append([]string{"bus/pci/devices", address}, parts...)...)
}

// Scan finds the PFs of the node and their VFs, in order of their addresses.
func (h Host) Scan() ([]PF, error) {
	devices, err := os.ReadDir(h.path("bus/pci/devices"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list PCI devices: %w", err)
	}
	var found []PF
	for _, d := range devices {
		limit, err := h.number(d.Name(), "sriov_totalvfs")
		if errors.Is(err, fs.ErrNotExist) || limit == 0 && err == nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		pf := PF{Address: d.Name(), MaxVFs: limit, Driver: h.driver(d.Name()), Interface: h.netdev(d.Name()), NUMA: -1}
		if n, err := h.number(d.Name(), "numa_node"); err == nil {
			pf.NUMA = n
		}
		if pf.Interface != "" {
			carrier, err := os.ReadFile(h.device(d.Name(), "net", pf.Interface, "carrier"))
			pf.Up = err == nil && strings.TrimSpace(string(carrier)) == "1"
		}
		if pf.VFs, err = h.functions(d.Name()); err != nil {
			return nil, err
		}
		found = append(found, pf)
	}
	return found, nil
}

// functions lists the VFs of a PF.
func (h Host) functions(pf string) ([]VF, error) {
	links, err := filepath.Glob(h.device(pf, "virtfn*"))
	if err != nil {
		return nil, err
	}
	var found []VF
	for _, l := range links {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(l), "virtfn"))
		if err != nil {
			continue
		}
		a := linkBase(l)
		if CheckAddress(a) != nil {
			continue // removed while we look
		}
		vf := VF{Address: a, Number: n, Driver: h.driver(a), Interface: h.netdev(a), Group: -1}
		if g, err := strconv.Atoi(linkBase(h.device(a, "iommu_group"))); err == nil {
			vf.Group = g
		}
		found = append(found, vf)
	}
	slices.SortFunc(found, func(a, b VF) int { return cmp.Compare(a.Number, b.Number) })
	return found, nil
}

// driver is the name of the driver that a device is bound to, empty for none.
func (h Host) driver(address string) string { return linkBase(h.device(address, "driver")) }

// netdev is the device's interface, empty if the namespace that sysfs was mounted in has none.
func (h Host) netdev(address string) string {
	entries, err := os.ReadDir(h.device(address, "net"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

func linkBase(path string) string {
	to, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (h Host) number(address, file string) (int, error) {
	text, err := os.ReadFile(h.device(address, file))
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", file, address, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s of %s: %w", file, address, err)
	}
	return n, nil
}

// write sets a file of sysfs. It never creates one: a name that is not there is an error.
func (h Host) write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

// Create makes n VFs at a PF that has none yet. The number of a PF that has some stays: changing it would take away VFs
// that are in use.
func (h Host) Create(pf PF, n int) error {
	switch {
	case len(pf.VFs) > 0 || n == 0:
		return nil
	case n > pf.MaxVFs:
		return fault.New(fault.Invalid, "PF %s can have %d VFs, not %d; lower vfs in its configuration", pf.Address, pf.MaxVFs, n)
	}
	if err := h.write(h.device(pf.Address, "sriov_numvfs"), strconv.Itoa(n)); err != nil {
		return fmt.Errorf("create %d VFs at PF %s: %w; is SR-IOV enabled in the firmware?", n, pf.Address, err)
	}
	return nil
}

// vfioDriver lends a device to a process in user space.
const vfioDriver = "vfio-pci"

// Bind gives a device to a driver. A device that has it already is left alone.
func (h Host) Bind(address, driver string) error {
	if err := CheckAddress(address); err != nil {
		return err
	}
	if h.driver(address) == driver {
		return nil
	}
	return h.Rebind(address, driver)
}

// Rebind is Bind that has the driver begin anew: most drivers of VFs learn only then what their PF was told.
func (h Host) Rebind(address, driver string) error {
	if err := CheckAddress(address); err != nil {
		return err
	}
	if _, err := os.Stat(h.path("bus/pci/drivers", driver)); err != nil {
		return fault.New(fault.Unavailable, "driver %s is not loaded; run modprobe %s", driver, driver)
	}
	// With an override the device takes this driver and no other, whatever ids the driver claims.
	if err := h.write(h.device(address, "driver_override"), driver+"\n"); err != nil {
		return fmt.Errorf("driver of %s: %w", address, err)
	}
	if h.driver(address) != "" {
		if err := h.write(h.device(address, "driver/unbind"), address); err != nil {
			return fmt.Errorf("unbind %s from its driver: %w", address, err)
		}
	}
	if err := h.write(h.path("bus/pci/drivers", driver, "bind"), address); err != nil {
		return fmt.Errorf("bind %s to %s: %w", address, driver, err)
	}
	return nil
}
