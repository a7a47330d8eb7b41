package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/hop"
	"highwire/controlplane/registry"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// relay is connect of a manager that has no dataplane: a forwarder of this node chooses the endpoint and makes the vWire (§3.8).
// It gets the client's mechanisms as they came, and the files that they name.
func (m *Manager) relay(ctx context.Context, a *ask) (*entry, error) {
	expires, err := expiry(ctx, a.conn)
	if err != nil {
		return nil, err
	}
	forwarders, err := m.forwarders(ctx, a)
	if err != nil {
		return nil, err
	}
	files, err := m.take(ctx, a)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if a.moves {
		// A forwarder keeps the endpoint that it has.
		m.closeNext(ctx, a.old)
	}
	var errs []error
	for i, f := range forwarders {
		e, err := m.through(ctx, a, f, files, len(forwarders)-i)
		m.choice.tried(f.Name, err, time.Now())
		if err != nil {
			errs = append(errs, fmt.Errorf("forwarder %s: %w", f.Name, err))
			continue
		}
		e.expires = expires
		if a.old != nil {
			if !a.reselect() && !a.moves && !sameNext(a.old, e) {
				m.closeNext(ctx, a.old)
			}
			e.created = a.old.created
			a.old.next.Release()
		}
		m.store(e, a.old)
		m.hub.Put(e.conn)
		return e, nil
	}
	return nil, errors.Join(errs...)
}

// take receives the files that the client's mechanisms name.
func (m *Manager) take(ctx context.Context, a *ask) (files []*os.File, err error) {
	if a.files == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.FileWait)
	defer cancel()
	taken := map[mechanisms.Inode]bool{}
	for _, mechanism := range append(slices.Clone(a.preferences), a.conn.Mechanism) {
		inode, err := mechanisms.ParseInode(mechanism.GetParameters()[mechanisms.ParamInode])
		if err != nil || taken[inode] {
			continue
		}
		taken[inode] = true
		file, err := a.files.Receive(ctx, inode)
		if err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}

// forwarders are those of this node that may carry the connection, in the order to try them: the one that has it first.
func (m *Manager) forwarders(ctx context.Context, a *ask) ([]*registryapi.NetworkServiceEndpoint, error) {
	service, err := m.Directory.FindService(ctx, a.conn.NetworkService)
	if err != nil {
		return nil, err
	}
	a.conn.Payload = payloadOf(service)
	wanted, err := registry.ForwarderLabels(service, a.conn.Labels)
	if err != nil {
		return nil, err
	}
	all, err := m.Directory.Candidates(ctx, &registryapi.NetworkService{Name: m.Forwarders}, nil)
	if err != nil {
		return nil, err
	}
	fit := slices.DeleteFunc(all, func(c registry.Candidate) bool {
		labels := c.NetworkServiceLabels[m.Forwarders].GetLabels()
		return atNode(c.NetworkServiceEndpoint) || !containsAll(labels, wanted)
	})
	if len(fit) == 0 {
		return nil, fault.New(fault.Unavailable, "no forwarder of this node with labels %v is registered", wanted)
	}
	list := m.choice.order(m.Forwarders, fit, time.Now())
	if i := slices.IndexFunc(list, func(f *registryapi.NetworkServiceEndpoint) bool { return f.Name == a.formerForwarder() }); i > 0 {
		list = slices.Concat(list[i:i+1], list[:i], list[i+1:])
	}
	return list, nil
}

func containsAll(labels, wanted map[string]string) bool {
	for k, v := range maps.All(wanted) {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// formerForwarder is the one that has the connection, also when we know only from its client.
func (a *ask) formerForwarder() string {
	segments := a.conn.Path.PathSegments
	if own := int(a.conn.Path.Index); own+1 < len(segments) && !a.reselect() {
		return segments[own+1].Name
	}
	return ""
}

// through asks one forwarder.
func (m *Manager) through(ctx context.Context, a *ask, f *registryapi.NetworkServiceEndpoint, files []*os.File, left int) (*entry, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	next, err := m.dial(f, nil)
	if err != nil {
		return nil, err
	}
	c := proto.CloneOf(a.conn)
	c.Context, c.State = fill(c.Context), connection.State_UP
	if f.Name != a.formerForwarder() || a.moves {
		c.Path.PathSegments = c.Path.PathSegments[:c.Path.Index+1]
	}
	if a.moves {
		c.NetworkServiceEndpointName = ""
	}
	var options []grpc.CallOption
	if len(files) > 0 {
		options = append(options, hop.WithFile(files...))
	}
	answer, _, err := next.Request(ctx, &networkservice.NetworkServiceRequest{Connection: c, MechanismPreferences: a.preferences}, options...)
	if err == nil && !hop.Chosen(answer) {
		err = fault.New(fault.Unavailable, "it answered without a mechanism")
	}
	if err != nil {
		if answer != nil && a.old == nil {
			_ = m.cleanup(ctx, func(ctx context.Context) error { return next.Close(ctx, c) })
		}
		next.Release()
		return nil, err
	}
	answer.Context, answer.State = fill(answer.Context), connection.State_UP
	answer.Labels, answer.NetworkService, answer.Payload = a.conn.Labels, a.conn.NetworkService, a.conn.Payload
	return &entry{owner: a.owner, conn: answer, endpoint: answer.Mechanism, url: f.Url, created: time.Now(), answered: time.Now(), next: next, named: a.names}, nil
}
