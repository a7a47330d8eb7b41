package forwarder

import (
	"bytes"

	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// VWire is one wanted connection between a client and an endpoint. It is a value: change it by setting another one with
// the same ID.
type VWire struct {
	// ID is 1 to 48 bytes of [0-9A-Za-z._-]; it names the vWire in VPP's tags.
	ID       string
	Client   mechanisms.End
	Endpoint mechanisms.End
	// Record belongs to whoever set the vWire (the manager keeps its connection here). It is journaled with the vWire and
	// means nothing to the dataplane.
	Record []byte
}

// Equal tells whether both are built the same way in the dataplane; Record is not looked at.
func (v VWire) Equal(o VWire) bool {
	return v.ID == o.ID && v.Client.Equal(o.Client) && v.Endpoint.Equal(o.Endpoint)
}

// same is Equal with Record: nothing to journal, nothing to do.
func (v VWire) same(o VWire) bool { return v.Equal(o) && bytes.Equal(v.Record, o.Record) }

func (v VWire) ends() [2]mechanisms.End { return [...]mechanisms.End{v.Client, v.Endpoint} }

// Check refuses a vWire that no dataplane could build, with fault.Invalid.
func (v VWire) Check() error {
	if err := checkID(v.ID); err != nil {
		return err
	}
	for side, e := range map[mechanisms.Side]mechanisms.End{mechanisms.Client: v.Client, mechanisms.Endpoint: v.Endpoint} {
		switch {
		case e.VWire != v.ID || e.Side != side:
			return fault.New(fault.Invalid, "vWire %s: its %s end says it is %s", v.ID, side, e.Name())
		case e.Payload != v.Client.Payload:
			return fault.New(fault.Invalid, "vWire %s: the ends carry different payloads, %s and %s", v.ID, v.Client.Payload, e.Payload)
		case e.Payload != mechanisms.Ethernet && e.Payload != mechanisms.IP:
			return fault.New(fault.Invalid, "vWire %s: payload %q: want ETHERNET or IP", v.ID, e.Payload)
		}
	}
	return nil
}

func checkID(id string) error {
	if len(id) < 1 || len(id) > 48 {
		return fault.New(fault.Invalid, "vWire id %.60q: want 1 to 48 bytes", id)
	}
	for _, c := range []byte(id) {
		switch {
		case '0' <= c && c <= '9', 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', c == '.', c == '_', c == '-':
		default:
			return fault.New(fault.Invalid, "vWire id %q: only letters, digits, '.', '_' and '-'", id)
		}
	}
	return nil
}
