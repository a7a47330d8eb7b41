package vppapi

import (
	"cmp"
	"context"
	"fmt"
)

// Kind orders objects: creates ascend, deletes descend. That order is the whole dependency model.
type Kind int

const (
	// KindLink is a kernel link that VPP will attach to (a veth pair).
	KindLink Kind = iota
	// KindSocket is a memif socket file name.
	KindSocket
	// KindInterface is whatever VPP answers a sw_if_index for.
	KindInterface
	// KindTag is the owner's mark on an interface.
	KindTag
	// KindSetting is a property of an interface: MTU, rx mode.
	KindSetting
	// KindNetns is what the kernel holds for an end: name, addresses, routes of its interface.
	KindNetns
	// KindPeer is the far side of a WireGuard interface.
	KindPeer
	// KindAddress is an IP address of an interface of the node itself.
	KindAddress
	// KindRoute is a route over such an interface.
	KindRoute
	// KindNeighbor is a static neighbour in VPP.
	KindNeighbor
	// KindXConnect is one direction of an l2 or l3 cross-connect.
	KindXConnect
	// KindUp is the administrative state of a VPP interface.
	KindUp
	// KindCarrier is the peer's kernel link brought up, with the routes that need it. It is the last step of all: packets
	// that arrive while af_packet interfaces are still being made can hang VPP.
	KindCarrier
)

var kindNames = [...]string{"link", "socket", "interface", "tag", "setting", "netns", "peer", "address", "route", "neighbor", "xconnect", "up", "carrier"}

// String names the kind as plans print it.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("kind(%d)", int(k))
	}
	return kindNames[k]
}

// Key identifies an object. Two vWires that want the same thing use the same key for it.
type Key struct {
	Kind Kind
	// Name is unique within the kind; for objects of one vWire end it begins with "<vwire>:<side>".
	Name string
}

// String is "kind name".
func (k Key) String() string { return k.Kind.String() + " " + k.Name }

// CompareKeys puts keys in the order of creation.
func CompareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// Object is one thing wanted in the dataplane: an immutable, comparable value (usable with ==) that belongs under a Key.
// Objects that VPP holds are defined in this package; what the kernel holds implements Local.
type Object interface {
	Key() Key
	// Uses are the links and interfaces it is built on: it is made after them and does not outlive them.
	Uses() []Key
	// String is the object on one line as plans print it, without secrets.
	String() string
}

// Local is an Object realized by the agent itself, outside VPP: a link, an address. Apply runs Locals at the place their
// Kind gives them, many at a time, so methods must be safe for concurrent use.
type Local interface {
	Object
	// Realize makes it so. It reads first and changes only what differs, so that calling it again is harmless;
	// changed tells whether anything had to be done.
	Realize(ctx context.Context) (changed bool, err error)
	// Release removes it. What is gone already is not an error.
	Release(ctx context.Context) error
}

// Outliver is an object that does not go by itself with the interfaces it Uses and has to be removed before them.
type Outliver interface {
	Object
	Outlives()
}

// Observer is a Local whose existence can be asked for cheaply. A Local without it counts as absent after a dump and is
// realized again, which is harmless.
type Observer interface {
	Local
	// Observe tells whether the object is there as it should be.
	Observe(ctx context.Context) bool
}

// Broken stands for a Local of which only a part is left: it goes, with all that stands on it, before it is made anew.
type Broken struct{ Local }

// Interface is the key of the VPP interface of a vWire end with that name.
func Interface(end string) Key { return Key{KindInterface, end} }
