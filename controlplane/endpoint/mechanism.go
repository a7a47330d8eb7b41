package endpoint

import (
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/mechanisms/sriov"
	"highwire/vppapi/fault"
)

// checkMechanisms fills in the default.
func checkMechanisms(c *Config) error {
	if len(c.Mechanisms) == 0 {
		c.Mechanisms = []string{mechanisms.Kernel}
	}
	for _, m := range c.Mechanisms {
		switch {
		case m != mechanisms.Kernel && m != mechanisms.Memif:
			return fault.New(fault.Invalid, "mechanism %q: an endpoint can do %s and %s", m, mechanisms.Kernel, mechanisms.Memif)
		case m == mechanisms.Memif && c.Memif == nil:
			return fault.New(fault.Invalid, "mechanism %s: nothing serves it", m)
		}
	}
	return nil
}

// mechanism takes the first of the caller's preferences that the endpoint can do (§3.4). Whatever was asked, interface or
// socket are in our namespace and the socket's name is our own (§2.2); old, which may be nil, keeps its socket.
func (e *Endpoint) mechanism(c *connection.Connection, old *live, preferences []*connection.Mechanism) (*connection.Mechanism, error) {
	offered := preferences
	if hop.Chosen(c) {
		offered = []*connection.Mechanism{c.Mechanism}
	}
	for _, o := range offered {
		if o.Cls == string(mechanisms.Remote) || !slices.Contains(e.config.Mechanisms, o.Type) {
			continue
		}
		m := proto.CloneOf(o)
		m.Cls = string(mechanisms.Local)
		if m.Parameters == nil {
			m.Parameters = map[string]string{}
		}
		m.Parameters[mechanisms.ParamInode] = e.inode.String()
		switch {
		case m.Type == mechanisms.Memif && old != nil && old.end != nil:
			m.Parameters[mechanisms.ParamSocket] = old.conn.Mechanism.Parameters[mechanisms.ParamSocket]
		case m.Type == mechanisms.Memif:
			m.Parameters[mechanisms.ParamSocket] = "@highwire/" + uuid.NewString() + "/memif.sock"
		case m.Parameters[mechanisms.ParamName] == "":
			m.Parameters[mechanisms.ParamName] = hop.InterfaceName(c.NetworkService, c.Id)
		}
		return m, e.addToken(m, old)
	}
	return nil, fault.New(fault.Invalid, "mechanism_preferences: this endpoint can do only %s", strings.Join(e.config.Mechanisms, ", "))
}

// addToken has a kernel interface be a virtual function: the one that old has, or one that no connection has. It runs under
// the lock.
func (e *Endpoint) addToken(m *connection.Mechanism, old *live) error {
	if m.Type != mechanisms.Kernel || len(e.config.TokenIDs) == 0 {
		return nil
	}
	used := map[string]bool{}
	for _, l := range e.live {
		if l != old {
			used[l.conn.Mechanism.Parameters[sriov.ParamToken]] = true
		}
	}
	for _, id := range e.config.TokenIDs {
		if !used[id] {
			m.Parameters[sriov.ParamToken] = id
			return nil
		}
	}
	return fault.New(fault.Exhausted, "all %d virtual functions of this endpoint are in use", len(e.config.TokenIDs))
}

// serve has a connection by memif served. What serves its former self goes on where nothing changed for it, and ends
// otherwise. On error nothing is left of the connection. It runs under the lock.
func (e *Endpoint) serve(l, old *live) (err error) {
	if old != nil && old.end != nil {
		if sameMemif(old.conn, l.conn) {
			l.end = old.end
			return nil
		}
		old.end()
		old.end = nil
	}
	if l.conn.Mechanism.Type != mechanisms.Memif {
		return nil
	}
	l.end, err = e.config.Memif(l.conn, l.conn.Mechanism.Parameters[mechanisms.ParamSocket])
	switch {
	case err != nil && old != nil:
		e.drop(old)
	case err != nil:
		e.addresses.free(l.conn.Id)
	}
	return err
}

// sameMemif tells whether an application sees no difference between two states of a connection.
func sameMemif(a, b *connection.Connection) bool {
	x, y := a.GetContext().GetIpContext(), b.GetContext().GetIpContext()
	return proto.Equal(a.Mechanism, b.Mechanism) && a.Payload == b.Payload && a.GetContext().GetMTU() == b.GetContext().GetMTU() &&
		slices.Equal(x.GetSrcIpAddrs(), y.GetSrcIpAddrs()) && slices.Equal(x.GetDstIpAddrs(), y.GetDstIpAddrs())
}
