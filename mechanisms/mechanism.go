// Package mechanisms says how one end of a vWire is built, one subpackage a mechanism, and chooses the mechanism from what
// both sides offer.
//
// A Mechanism turns an End into the objects that realize it. It is deterministic: the same End gives the same objects, so
// that a difference between two states can be found by comparing values. The VPP interface of an end always has the key
// {interface, End.Name()}; the cross-connect is built on that alone, which is why any mechanism connects to any other.
package mechanisms

import (
	"net/netip"
	"slices"
	"strings"

	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Class tells where a mechanism reaches, spelled as Mechanism.cls on the NSM wire.
type Class string

const (
	// Local mechanisms join two parties on one host.
	Local Class = "LOCAL"
	// Remote mechanisms are tunnels between hosts.
	Remote Class = "REMOTE"
)

// Mechanism builds ends of one type.
type Mechanism interface {
	// Type is the name on the wire, e.g. KERNEL.
	Type() string
	// Class is LOCAL or REMOTE.
	Class() Class
	// Payloads that it can carry.
	Payloads() []Payload
	// Objects are all objects of the end, the interface under {KindInterface, end.Name()} among them. Bad parameters are
	// fault.Invalid and name the parameter.
	Objects(end End) ([]vppapi.Object, error)
}

// Completer is a mechanism that chooses parameters which a client may leave open.
type Completer interface {
	Mechanism
	// Complete answers the parameters to add to the client's. Called again with its own answer it gives the same. What the
	// client said and cannot be used is fault.Invalid or fault.Conflict and names the parameter.
	Complete(client End) (map[string]string, error)
}

// Proposer is a mechanism between nodes, which needs parameters from the side that asks.
type Proposer interface {
	Mechanism
	// Propose answers the parameters of a REMOTE preference: where our side of the tunnel is. end is ours towards the
	// endpoint, with what is known of it; far is an address of the other node, the zero Addr if unknown. Called again with
	// its own answer, or for the same vWire, it gives the same as long as that holds. fault.Unavailable without an address
	// that far can be reached from.
	Propose(end End, far netip.Addr) (map[string]string, error)
}

// Set is the mechanisms an agent has, in order of preference.
type Set []Mechanism

// Get returns the mechanism of the type, or fault.Invalid with the types there are.
func (s Set) Get(typ string) (Mechanism, error) {
	for _, m := range s {
		if m.Type() == typ {
			return m, nil
		}
	}
	return nil, fault.New(fault.Invalid, "mechanism %q is not supported here; supported: %s", typ, s)
}

// String lists the types, comma separated.
func (s Set) String() string {
	types := make([]string, len(s))
	for i, m := range s {
		types[i] = m.Type()
	}
	return strings.Join(types, ", ")
}

// Offer lists the types of the class that can carry the payload, in order of preference.
func (s Set) Offer(class Class, payload Payload) []string {
	var types []string
	for _, m := range s {
		if m.Class() == class && slices.Contains(m.Payloads(), payload) {
			types = append(types, m.Type())
		}
	}
	return types
}
