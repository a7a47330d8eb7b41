package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/sriov"
	"highwire/vppapi/fault"
)

// clientMechanism chooses the mechanism towards the client (§3.4): the one the connection has, or the first of the client's
// preferences that we can do. What the client said in its parameters stays as it is; what it left open is completed.
func (m *Manager) clientMechanism(a *ask) (*connection.Mechanism, error) {
	offered := a.preferences
	if hop.Chosen(a.conn) && !a.reselect() {
		offered = []*connection.Mechanism{a.conn.Mechanism}
		// A tunnel may have lost its ground: either node has other addresses now.
		if isRemote(a.conn.Mechanism) {
			offered = append(offered, a.preferences...)
		}
	}
	var errs []error
	for _, o := range offered {
		known, err := m.Mechanisms.Get(o.Type)
		if err != nil || !suits(known, o, mechanisms.Payload(a.conn.Payload)) {
			continue
		}
		c, err := m.complete(a, known, o)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var types []string
	for _, o := range offered {
		types = append(types, o.Cls+"/"+o.Type)
	}
	return nil, fault.New(fault.Invalid, "mechanism_preferences: none of %v can be done here; supported: %s", types, m.Mechanisms)
}

// suits tells whether the mechanism is of the class that was offered, and carries the payload where that is known already.
func suits(known mechanisms.Mechanism, offered *connection.Mechanism, payload mechanisms.Payload) bool {
	class := mechanisms.Class(offered.Cls)
	return (class == "" || class == known.Class()) && (payload == "" || slices.Contains(known.Payloads(), payload))
}

func (m *Manager) complete(a *ask, known mechanisms.Mechanism, offered *connection.Mechanism) (*connection.Mechanism, error) {
	c := proto.CloneOf(offered)
	c.Cls = string(known.Class())
	if c.Parameters == nil {
		c.Parameters = map[string]string{}
	}
	p := c.Parameters
	if known, ok := known.(mechanisms.Completer); ok {
		end := mechanisms.End{VWire: a.conn.Id, Side: mechanisms.Client, Type: c.Type, Params: p, Payload: mechanisms.Payload(a.conn.Payload)}
		chosen, err := known.Complete(end)
		if err != nil {
			return nil, fmt.Errorf("mechanism %s: %w", c.Type, err)
		}
		maps.Copy(p, chosen)
	}
	switch {
	case known.Class() == mechanisms.Remote, c.Type == mechanisms.VFIO:
	case p[mechanisms.ParamInode] == "" && p[mechanisms.ParamSocket] == "":
		return nil, fault.New(fault.Invalid, "mechanism %s: parameters[%s] is missing: it names the network namespace of the interface", c.Type, mechanisms.ParamInode)
	case c.Type == mechanisms.Kernel && p[mechanisms.ParamName] == "":
		p[mechanisms.ParamName] = hop.InterfaceName(a.conn.NetworkService, a.conn.Id)
	}
	return c, nil
}

func (m *Manager) completer(typ string) (mechanisms.Completer, bool) {
	known, err := m.Mechanisms.Get(typ)
	if err != nil {
		return nil, false
	}
	c, ok := known.(mechanisms.Completer)
	return c, ok
}

// checkMechanism refuses an answer whose mechanism is none that the request offered, or is not complete.
func (m *Manager) checkMechanism(request *networkservice.NetworkServiceRequest, answer *connection.Connection) error {
	chosen := answer.GetMechanism()
	offered := slices.ContainsFunc(request.MechanismPreferences, func(o *connection.Mechanism) bool {
		return o.Type == chosen.GetType()
	})
	switch {
	case !offered:
		return fault.New(fault.Unavailable, "it answered mechanism %q, which was not offered", chosen.GetType())
	case isRemote(request.MechanismPreferences[0]) && !stands(chosen, request.MechanismPreferences):
		return fault.New(fault.Unavailable, "it answered mechanism %s with another tunnel than we offered: our side of it was changed", chosen.Type)
	case chosen.Type == mechanisms.Kernel && (chosen.Parameters[mechanisms.ParamInode] == "" || chosen.Parameters[mechanisms.ParamName] == ""):
		return fault.New(fault.Unavailable, "it answered mechanism KERNEL without %s and %s", mechanisms.ParamInode, mechanisms.ParamName)
	case chosen.Type == mechanisms.Memif && chosen.Parameters[mechanisms.ParamInode] == "":
		return fault.New(fault.Unavailable, "it answered mechanism MEMIF without %s: it names the socket or the namespace of an abstract one", mechanisms.ParamInode)
	}
	return nil
}

// build makes the vWire between the client's mechanism and what the endpoint answered.
func (m *Manager) build(c *connection.Connection, client *connection.Mechanism, answer *connection.Connection) (forwarder.VWire, error) {
	context, err := hop.ParseContext(answer.Context)
	if err != nil {
		return forwarder.VWire{}, fault.New(fault.Unavailable, "it answered what cannot be built: %w", err)
	}
	end := func(side mechanisms.Side, mechanism *connection.Mechanism) mechanisms.End {
		return mechanisms.End{VWire: c.Id, Side: side, Type: mechanism.Type, Params: maps.Clone(mechanism.Parameters), Payload: mechanisms.Payload(c.Payload)}
	}
	far := end(mechanisms.Endpoint, answer.Mechanism)
	if known, ok := m.completer(far.Type); ok && far.Params[sriov.ParamToken] != "" {
		// Like a client the endpoint has a token, and the device that it stands for is chosen here.
		chosen, err := known.Complete(far)
		if err != nil {
			return forwarder.VWire{}, err
		}
		maps.Copy(far.Params, chosen)
	}
	v := forwarder.VWire{
		ID:       c.Id,
		Client:   context.ClientEnd(end(mechanisms.Client, client)),
		Endpoint: context.EndpointEnd(far),
	}
	return v, v.Check()
}

// hold waits for the file that a mechanism names and keeps the namespace open until release.
func (m *Manager) hold(ctx context.Context, files hop.Files, mechanism *connection.Mechanism) (release func(), err error) {
	url := mechanism.Parameters[mechanisms.ParamInode]
	if url == "" {
		return func() {}, nil
	}
	inode, err := mechanisms.ParseInode(url)
	if err != nil {
		return nil, err
	}
	if files == nil {
		return nil, fault.New(fault.Invalid, "namespace %s cannot arrive: only unix sockets carry files, connect by one", inode)
	}
	ctx, cancel := context.WithTimeout(ctx, m.FileWait)
	defer cancel()
	file, err := files.Receive(ctx, inode)
	if err != nil {
		return nil, fmt.Errorf("namespace %w", err)
	}
	defer file.Close()
	held, err := m.Namespaces.Hold(file)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", inode, err)
	}
	return func() { m.Namespaces.Release(held) }, nil
}

// supersede closes another connection that has this interface, when it is the same client come back after it was killed: it
// has the same name and, as the file proved, the same namespace. Any other is a fault.Conflict.
func (m *Manager) supersede(ctx context.Context, a *ask, l link) error {
	m.mu.Lock()
	other := m.links[l]
	m.mu.Unlock()
	if l.name == "" || other == nil || other == a.old {
		return nil
	}
	if other.owner.Name != a.owner.Name {
		return fault.New(fault.Conflict, "interface %s in namespace %s belongs to connection %s of client %s", l.name, l.inode, other.conn.Id, other.owner.Name)
	}
	if other.owner != a.owner {
		// Two that supersede each other's would wait for each other; one gives up early.
		ctx, cancel := context.WithTimeout(ctx, cleanupTime)
		defer cancel()
		leave, err := m.enter(ctx, other.owner)
		if err != nil {
			return err
		}
		defer leave()
	}
	if m.current(other.conn.Id) != other {
		return nil
	}
	other.log().Info("superseded by a new connection of the same client for the same interface", "by", a.conn.Id)
	return m.remove(ctx, other)
}
