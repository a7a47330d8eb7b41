package packets

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	highwirev1 "highwire/controlplane/api/highwire/v1"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/vppapi"
	"highwire/vppapi/fault"
)

// Config says what a Service works on. All fields are needed.
type Config struct {
	VWires func() []forwarder.Status
	// VPP is the session with the VPP that runs now.
	VPP func() (*vppapi.Conn, error)
	// Namespaces holds the peers' network namespaces; kernel.Namespaces is one.
	Namespaces interface {
		// Do calls fn on a thread inside the namespace.
		Do(ctx context.Context, id mechanisms.Inode, fn func() error) error
	}
}

// Service answers highwire.v1.Packets.
type Service struct {
	highwirev1.UnimplementedPacketsServer
	cfg Config
	// tracing and recording are held by the one call that uses VPP's tracer, and its capture.
	tracing, recording chan struct{}
}

// New makes a Service.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, tracing: make(chan struct{}, 1), recording: make(chan struct{}, 1)}
}

// AddTo registers the service.
func (s *Service) AddTo(r grpc.ServiceRegistrar) { highwirev1.RegisterPacketsServer(r, s) }

// alone takes one of the things that VPP has only once; who holds it is named by what.
func alone(held chan struct{}, what string) (release func(), err error) {
	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	default:
		return nil, fault.New(fault.Conflict, "%s is in use by another command, and VPP has only one; wait for it or stop it", what)
	}
}

// find is the vWire with that id, or the only one whose id begins so. None is fault.NotFound, several are fault.Invalid.
func (s *Service) find(id string) (forwarder.Status, error) {
	var found []forwarder.Status
	for _, v := range s.cfg.VWires() {
		if v.VWire.ID == id {
			return v, nil
		}
		if strings.HasPrefix(v.VWire.ID, id) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return forwarder.Status{}, fault.New(fault.NotFound, "there is no vWire %q on this node", id)
	case 1:
		return found[0], nil
	}
	return forwarder.Status{}, fault.New(fault.Invalid, "%q is the beginning of several ids, among them %s and %s", id, found[0].VWire.ID, found[1].VWire.ID)
}

// sides are the ends of a vWire in the order of preference.
var sides = []mechanisms.Side{mechanisms.Client, mechanisms.Endpoint}

func endOf(v forwarder.VWire, side mechanisms.Side) mechanisms.End {
	if side == mechanisms.Client {
		return v.Client
	}
	return v.Endpoint
}

// indexOf is VPP's sw_if_index of an end's interface.
func indexOf(s forwarder.Status, side mechanisms.Side) (uint32, bool) {
	key := vppapi.Interface(endOf(s.VWire, side).Name())
	for _, o := range s.Objects {
		if o.Key == key && o.HasIndex {
			return o.SwIfIndex, true
		}
	}
	return 0, false
}
