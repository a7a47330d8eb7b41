package forwarder

import (
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// expand turns a vWire into the objects that realize it: those of both ends and the cross-connect between them. It is
// pure: equal vWires give equal objects.
func expand(set mechanisms.Set, v VWire) (map[vppapi.Key]vppapi.Object, error) {
	if err := v.Check(); err != nil {
		return nil, err
	}
	objects := make(map[vppapi.Key]vppapi.Object)
	// Packets may stay unchecksummed and unsegmented on their way only if both ends are kernels.
	offload := v.Client.Type == mechanisms.Kernel && v.Endpoint.Type == mechanisms.Kernel
	for _, e := range []mechanisms.End{v.Client, v.Endpoint} {
		e.Offload = offload
		m, err := set.Get(e.Type)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "vWire %s: %w", e.Name(), err)
		}
		list, err := m.Objects(e)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "vWire %s: %w", e.Name(), err)
		}
		for _, o := range list {
			objects[o.Key()] = o
		}
	}
	for _, o := range crossConnect(v.Client, v.Endpoint) {
		objects[o.Key()] = o
	}
	return objects, nil
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
