package sriov

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Parameter keys of VFIO ends beside those of all VFs, as on the NSM wire (§2.2). The client sends cgroupDir; the agent
// answers the rest, with which the client makes the nodes /dev/vfio/vfio and /dev/vfio/<iommuGroup>.
const (
	ParamCgroup      = "cgroupDir"
	ParamGroup       = "iommuGroup"
	ParamVFIOMajor   = "vfioMajor"
	ParamVFIOMinor   = "vfioMinor"
	ParamDeviceMajor = "deviceMajor"
	ParamDeviceMinor = "deviceMinor"
)

// VFIOMechanism is VFIO: the peer drives the VF itself.
type VFIOMechanism struct {
	pool *Pool
}

// NewVFIO makes the mechanism.
func NewVFIO(pool *Pool) *VFIOMechanism { return &VFIOMechanism{pool} }

// Type is VFIO.
func (m *VFIOMechanism) Type() string { return mechanisms.VFIO }

// Class is LOCAL.
func (m *VFIOMechanism) Class() mechanisms.Class { return mechanisms.Local }

// Payloads are both: the card carries frames, whatever is in them.
func (m *VFIOMechanism) Payloads() []mechanisms.Payload {
	return []mechanisms.Payload{mechanisms.Ethernet, mechanisms.IP}
}

// Complete reserves a VF, lends it to user space, and answers where the client finds it.
func (m *VFIOMechanism) Complete(e mechanisms.End) (map[string]string, error) {
	if err := checkCgroup(e.Params[ParamCgroup]); err != nil {
		return nil, err
	}
	vf, err := m.pool.reserve(e, VFIO)
	if err != nil {
		return nil, err
	}
	h := m.pool.cfg.Host
	if err := h.Bind(vf.Address, vfioDriver); err != nil {
		return nil, err
	}
	// The numbers of a group's device are known once its driver is vfio-pci.
	control, err := h.deviceNumber("class/misc/vfio/dev")
	if err != nil {
		return nil, err
	}
	device, err := h.deviceNumber("class/vfio/" + strconv.Itoa(vf.Group) + "/dev")
	if err != nil {
		return nil, err
	}
	return map[string]string{
		ParamPCI: vf.Address, ParamGroup: strconv.Itoa(vf.Group),
		ParamVFIOMajor: control.major(), ParamVFIOMinor: control.minor(), ParamDeviceMajor: device.major(), ParamDeviceMinor: device.minor(),
	}, nil
}

// Hold claims the end's VF until Drop.
func (m *VFIOMechanism) Hold(e mechanisms.End) error {
	return m.pool.Claim(e.Name(), e.Params[ParamPCI], e.Params[ParamToken], VFIO)
}

// Drop undoes Hold.
func (m *VFIOMechanism) Drop(e mechanisms.End) { m.pool.Free(e.Name(), e.Params[ParamPCI]) }

// Objects of one VFIO end alone do not make a vWire, see Direct.
func (m *VFIOMechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) { return nil, alone(e) }

// Direct joins two ends with VFs by their cards.
func (m *VFIOMechanism) Direct(client, endpoint mechanisms.End) ([]vppapi.Object, error) {
	return m.pool.join(nil, client, endpoint)
}

// number is a character device's, as sysfs writes it: "major:minor".
type number struct{ Major, Minor uint32 }

func (n number) major() string { return strconv.FormatUint(uint64(n.Major), 10) }
func (n number) minor() string { return strconv.FormatUint(uint64(n.Minor), 10) }

func (h Host) deviceNumber(file string) (number, error) {
	text, err := os.ReadFile(h.path(file))
	if err != nil {
		return number{}, fault.New(fault.Unavailable, "VFIO is not ready: %w; is the module vfio-pci loaded and an IOMMU there?", err)
	}
	var n number
	if _, err := fmt.Sscanf(strings.TrimSpace(string(text)), "%d:%d", &n.Major, &n.Minor); err != nil {
		return number{}, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// Passed is a VF that a peer drives in user space.
type Passed struct {
	end      string
	host     Host
	address  string
	cgroup   string
	devices  [2]number // /dev/vfio/vfio and the group's
	settings settings
	access   Access
}

func (p *Pool) passed(e mechanisms.End) (Passed, error) {
	_, s, err := p.settings(e)
	if err != nil {
		return Passed{}, err
	}
	if s.MAC, err = kernel.MACOf(e); err != nil {
		return Passed{}, err
	}
	if err := checkCgroup(e.Params[ParamCgroup]); err != nil {
		return Passed{}, err
	}
	v := Passed{end: e.Name(), host: p.cfg.Host, address: e.Params[ParamPCI], cgroup: e.Params[ParamCgroup], settings: s, access: p.cfg.Access}
	for i, keys := range [][2]string{{ParamVFIOMajor, ParamVFIOMinor}, {ParamDeviceMajor, ParamDeviceMinor}} {
		_, err := fmt.Sscanf(e.Params[keys[0]]+":"+e.Params[keys[1]], "%d:%d", &v.devices[i].Major, &v.devices[i].Minor)
		if err != nil {
			return Passed{}, fault.New(fault.Invalid, "parameters[%s], parameters[%s]: want numbers", keys[0], keys[1])
		}
	}
	return v, nil
}

// Key is {link, end}.
func (v Passed) Key() vppapi.Key { return vppapi.Key{Kind: vppapi.KindLink, Name: v.end} }

// Uses nothing.
func (v Passed) Uses() []vppapi.Key { return nil }

func (v Passed) String() string {
	return fmt.Sprintf("vf %s driver %s for %s %s", v.address, vfioDriver, v.cgroup, v.settings)
}

// Observe tells whether the VF is with its driver, its PF enforces what it should, and the peer may open it.
func (v Passed) Observe(context.Context) bool {
	return v.host.driver(v.address) == vfioDriver && v.host.enforced(v.address, v.settings) && v.access.granted(v.cgroup, v.devices[:])
}

// Realize sets the VF up and lets the peer open it.
func (v Passed) Realize(context.Context) (bool, error) {
	changed, err := v.host.enforce(v.address, v.settings)
	if err == nil {
		err = v.host.Bind(v.address, vfioDriver)
	}
	if err == nil {
		err = v.access.grant(v.cgroup, v.devices[:])
	}
	return changed, err
}

// Release takes the peer's right to open the VF away. The VF stays with vfio-pci: who has it open keeps it open, and to
// unbind it would wait for him.
func (v Passed) Release(context.Context) error {
	// /dev/vfio/vfio alone opens nothing, and another VF of the same peer may need it.
	err := v.access.revoke(v.cgroup, v.devices[1:])
	if errors.Is(err, os.ErrNotExist) {
		return nil // the cgroup is gone, and its processes with it
	}
	return err
}
