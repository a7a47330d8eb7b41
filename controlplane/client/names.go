package client

import (
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/names"
)

// serveNames begins to answer the names of the namespace.
func (c *Client) serveNames() error {
	config := *c.DNS
	config.Enter = func(fn func() error) error { return inNamespace(c.namespace, fn) }
	var err error
	c.names, err = names.Start(config)
	return err
}

// useNames has the connection's nameservers asked while it is up.
func (s *session) useNames(kind EventKind) {
	if s.client.names == nil {
		return
	}
	var context *connectioncontext.DNSContext
	switch kind {
	case Failed:
		return
	case Connected, Refreshed:
		context = s.conn.GetContext().GetDnsContext()
	}
	if err := s.client.names.Use(s.index, s.client.Services[s.index].Name, context); err != nil {
		s.log.Error("the pod does not look up the names of the service", "reason", err)
	}
}
