package sriov

import (
	"slices"
	"strconv"

	"highwire/mechanisms"
	"highwire/mechanisms/kernel"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Parameter keys of ends with VFs, as on the NSM wire (§2.2).
const (
	// ParamToken asks for a VF, "sriov-<uuid>".
	ParamToken = "tokenID"
	// ParamPCI is the VF that an end has, "0000:01:10.0". The agent chooses it.
	ParamPCI = "pciAddress"
	// ParamVLAN is the VLAN that a VF is put into, 0 to 4094 in decimal; absent or 0 for none.
	ParamVLAN = "vlan"
)

// KernelMechanism is KERNEL, with VFs for ends that bring a token and everything else as kernel.Mechanism does it.
type KernelMechanism struct {
	*kernel.Mechanism
	pool       *Pool
	namespaces *kernel.Namespaces
}

// NewKernel makes the mechanism on top of inner, which works in the same namespaces.
func NewKernel(inner *kernel.Mechanism, pool *Pool, n *kernel.Namespaces) *KernelMechanism {
	return &KernelMechanism{inner, pool, n}
}

// wants tells whether the end is to have a VF.
func wants(e mechanisms.End) bool {
	return e.Type == mechanisms.VFIO || e.Params[ParamToken] != "" || e.Params[ParamPCI] != ""
}

// Complete reserves a VF for an end that brings a token.
func (m *KernelMechanism) Complete(e mechanisms.End) (map[string]string, error) {
	if !wants(e) {
		return nil, nil
	}
	vf, err := m.pool.reserve(e, Kernel)
	if err != nil {
		return nil, err
	}
	return map[string]string{ParamPCI: vf.Address}, nil
}

// Hold claims the end's VF and keeps its namespace open until Drop.
func (m *KernelMechanism) Hold(e mechanisms.End) error {
	if err := m.Mechanism.Hold(e); err != nil || !wants(e) {
		return err
	}
	err := m.pool.Claim(e.Name(), e.Params[ParamPCI], e.Params[ParamToken], Kernel)
	if err != nil {
		m.Mechanism.Drop(e)
	}
	return err
}

// Drop undoes Hold.
func (m *KernelMechanism) Drop(e mechanisms.End) {
	if wants(e) {
		m.pool.Free(e.Name(), e.Params[ParamPCI])
	}
	m.Mechanism.Drop(e)
}

// Fits: a VF needs no spare device.
func (m *KernelMechanism) Fits(e mechanisms.End) bool { return !wants(e) && m.Mechanism.Fits(e) }

// Objects of an end without a VF. One with a VF has no interface in VPP and is only good for Direct.
func (m *KernelMechanism) Objects(e mechanisms.End) ([]vppapi.Object, error) {
	if wants(e) {
		return nil, alone(e)
	}
	return m.Mechanism.Objects(e)
}

// alone says why a vWire with one VF cannot be built.
func alone(e mechanisms.End) error {
	return fault.New(fault.Invalid, "the %s end has a virtual function and the other end has none: packets of a VF go through the network card, "+
		"not through VPP, so both ends need a tokenID of one service domain", e.Side)
}

// Direct joins two ends with VFs by their cards; other ends as kernel.Mechanism does it.
func (m *KernelMechanism) Direct(client, endpoint mechanisms.End) ([]vppapi.Object, error) {
	if wants(client) || wants(endpoint) {
		return m.pool.join(m.namespaces, client, endpoint)
	}
	if client.Type != endpoint.Type {
		return nil, nil
	}
	return m.Mechanism.Direct(client, endpoint)
}

// join makes the objects of a vWire between two VFs.
func (p *Pool) join(n *kernel.Namespaces, client, endpoint mechanisms.End) ([]vppapi.Object, error) {
	if wants(client) && wants(endpoint) {
		if err := p.reachable(client, endpoint); err != nil {
			return nil, err
		}
	}
	var objects []vppapi.Object
	for _, e := range []mechanisms.End{client, endpoint} {
		switch {
		case !wants(e):
			return nil, alone(mechanisms.End{Side: e.Side.Other()})
		case e.Type == mechanisms.VFIO:
			v, err := p.passed(e)
			if err != nil {
				return nil, err
			}
			objects = append(objects, v)
		default:
			vf, err := p.lent(n, e)
			if err != nil {
				return nil, err
			}
			above, err := kernel.Above(n, e, vf.Key())
			if err != nil {
				return nil, err
			}
			objects = append(append(objects, vf), above...)
		}
	}
	return objects, nil
}

// reachable refuses two VFs whose cards are not connected.
func (p *Pool) reachable(client, endpoint mechanisms.End) error {
	a, _, err := p.settings(client)
	if err != nil {
		return err
	}
	b, _, err := p.settings(endpoint)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(a.ServiceDomains, func(d string) bool { return slices.Contains(b.ServiceDomains, d) }) {
		return fault.New(fault.Invalid, "the VFs of client and endpoint are not connected: their cards are in the service domains %v and %v; "+
			"give both a token of one domain", a.ServiceDomains, b.ServiceDomains)
	}
	return nil
}

// reserve chooses the VF of an end, or finds the one it names.
func (p *Pool) reserve(e mechanisms.End, use Use) (VF, error) {
	if _, err := vlanOf(e); err != nil {
		return VF{}, err
	}
	token := e.Params[ParamToken]
	if token == "" {
		return VF{}, fault.New(fault.Invalid, "mechanism %s: parameters[%s] is missing: it names what the VF must be good for", e.Type, ParamToken)
	}
	vf, err := p.Reserve(e.Name(), token, use)
	if named := e.Params[ParamPCI]; err == nil && named != "" && named != vf.Address {
		if err := CheckAddress(named); err != nil {
			return VF{}, err
		}
		return VF{}, fault.New(fault.Conflict, "parameters[%s] is %s, but the VF of %s is %s; leave it to the agent", ParamPCI, named, e.Name(), vf.Address)
	}
	return vf, err
}

func vlanOf(e mechanisms.End) (uint16, error) {
	text := e.Params[ParamVLAN]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > 4094 {
		return 0, fault.New(fault.Invalid, "parameters[%s] %.20q: want a VLAN id from 0 to 4094", ParamVLAN, text)
	}
	return uint16(n), nil
}

// settings are what the PF has to enforce on the end's VF, but for the MAC.
func (p *Pool) settings(e mechanisms.End) (Function, settings, error) {
	vlan, err := vlanOf(e)
	if err != nil {
		return Function{}, settings{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, pf, ok := p.find(e.Params[ParamPCI])
	if !ok {
		return Function{}, settings{}, fault.New(fault.NotFound, "there is no VF %.40q at the configured PFs", e.Params[ParamPCI])
	}
	f := p.cfg.Config.PhysicalFunctions[pf.Address]
	return f, settings{VLAN: vlan, SpoofCheck: f.spoofCheck(), Trust: f.Trust, MaxRate: f.MaxRate}, nil
}
