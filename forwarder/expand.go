package forwarder

import (
	"fmt"

	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// director is a mechanism that can join two of its own ends without VPP. It answers nothing where it does not.
type director interface {
	Direct(client, endpoint mechanisms.End) ([]vppapi.Object, error)
}

// expand turns a vWire into the objects that realize it: one direct path, or both ends and the cross-connect between them.
// It is pure: equal vWires give equal objects.
func expand(set mechanisms.Set, v VWire) (map[vppapi.Key]vppapi.Object, error) {
	if err := v.Check(); err != nil {
		return nil, err
	}
	list, err := direct(set, v)
	if err == nil && list == nil {
		list, err = connected(set, v)
	}
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "vWire %s: %w", v.ID, err)
	}
	objects := make(map[vppapi.Key]vppapi.Object)
	for _, o := range list {
		objects[o.Key()] = o
	}
	return objects, nil
}

func direct(set mechanisms.Set, v VWire) ([]vppapi.Object, error) {
	if v.Client.Type != v.Endpoint.Type {
		return nil, nil
	}
	m, err := set.Get(v.Client.Type)
	if d, ok := m.(director); ok {
		return d.Direct(v.Client, v.Endpoint)
	}
	return nil, err
}

func connected(set mechanisms.Set, v VWire) ([]vppapi.Object, error) {
	objects := crossConnect(v.Client, v.Endpoint)
	offload := offloads(v)
	for _, e := range v.ends() {
		e.Offload = offload
		m, err := set.Get(e.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Side, err)
		}
		list, err := m.Objects(e)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Side, err)
		}
		objects = append(objects, list...)
	}
	return objects, nil
}

// offloads: packets may stay unchecksummed and unsegmented on their way only if both ends are kernels.
func offloads(v VWire) bool {
	return v.Client.Type == mechanisms.Kernel && v.Endpoint.Type == mechanisms.Kernel
}

// crossConnect joins two ends in both directions: frames as they are, or packets of the families in use, each towards an
// address at the far side.
func crossConnect(a, b mechanisms.End) []vppapi.Object {
	var objects []vppapi.Object
	for _, d := range []struct{ from, to mechanisms.End }{{a, b}, {b, a}} {
		if a.Payload == mechanisms.Ethernet {
			objects = append(objects, vppapi.L2XConnect{From: d.from.Name(), To: d.to.Name()})
			continue
		}
		v4, v6 := d.to.Families()
		if v4 {
			objects = append(objects, vppapi.L3XConnect{From: d.from.Name(), To: d.to.Name(), NextHop: d.to.NextHop(false)})
		}
		if v6 {
			objects = append(objects, vppapi.L3XConnect{From: d.from.Name(), To: d.to.Name(), NextHop: d.to.NextHop(true)})
		}
	}
	return objects
}
