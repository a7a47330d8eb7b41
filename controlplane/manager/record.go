package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
	"highwire/forwarder"
	"highwire/vppapi/fault"
)

// record is what the journal keeps of a connection beside its vWire. Messages are in protobuf's wire format.
type record struct {
	Owner            hop.Caller
	Connection       []byte
	Endpoint         []byte
	URL              string
	Created, Expires time.Time
	Named            bool `json:",omitempty"`
}

func (e *entry) record() ([]byte, error) {
	conn, err := proto.Marshal(e.conn)
	if err != nil {
		return nil, err
	}
	endpoint, err := proto.Marshal(e.endpoint)
	if err != nil {
		return nil, err
	}
	return json.Marshal(record{Owner: e.owner, Connection: conn, Endpoint: endpoint, URL: e.url, Created: e.created, Expires: e.expires, Named: e.named})
}

func parseRecord(v forwarder.VWire) (*entry, error) {
	var r record
	if err := json.Unmarshal(v.Record, &r); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	e := &entry{owner: r.Owner, url: r.URL, vwire: v, created: r.Created, expires: r.Expires, named: r.Named, restored: true,
		conn: &connection.Connection{}, endpoint: &connection.Mechanism{}}
	if err := proto.Unmarshal(r.Connection, e.conn); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if err := proto.Unmarshal(r.Endpoint, e.endpoint); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	if err := hop.CheckConnection(e.conn); err != nil {
		return nil, err
	}
	if e.conn.Id != v.ID || e.own() < 1 || e.own() >= len(e.conn.Path.PathSegments) || e.conn.Mechanism == nil {
		return nil, fault.New(fault.Invalid, "the record is of connection %q at path segment %d", e.conn.Id, e.own())
	}
	return e, nil
}

// Restore takes up the connections of the agent's former life from Dataplane.List. Call it before the first Request. Those
// whose record cannot be read are deleted as soon as the dataplane is ready, as nobody could ever close them; the error says
// which.
func (m *Manager) Restore(_ context.Context, list []forwarder.Status) error {
	var lost []error
	for _, s := range list {
		e, err := parseRecord(s.VWire)
		if err != nil {
			lost = append(lost, fmt.Errorf("vWire %s is deleted, its journal record is damaged: %w", s.VWire.ID, err))
			m.background.Go(func() {
				if err := m.Dataplane.Delete(m.ctx, s.VWire.ID); err != nil {
					slog.Error("vWire not deleted", "connection", s.VWire.ID, "error", err)
				}
			})
			continue
		}
		m.store(e, nil)
		m.hub.Put(e.conn)
	}
	return errors.Join(lost...)
}
