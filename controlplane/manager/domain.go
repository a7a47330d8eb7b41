package manager

import (
	"highwire/controlplane/api/connection"
	"highwire/controlplane/registry"
)

// atHome takes the domain from the names in c when another hop has chosen an endpoint of ours by them (§3.9): what it calls
// name@domain is name here, whatever it calls us. restore gives an answer the names that the hop knows. Names that a client
// asks for are looked up in their domain; so are those of a connection that we sent there.
func (m *Manager) atHome(c *connection.Connection) (restore func(*connection.Connection)) {
	service, endpoint := c.NetworkService, c.NetworkServiceEndpointName
	name, domain := registry.SplitDomain(endpoint)
	old := m.current(c.Id)
	if domain == "" || m.Works || c.Path.Index < 2 || old != nil && old.conn.NetworkServiceEndpointName == endpoint {
		return func(*connection.Connection) {}
	}
	c.NetworkServiceEndpointName = name
	c.NetworkService, _ = registry.SplitDomain(service)
	return func(answer *connection.Connection) {
		answer.NetworkService = service
		answer.NetworkServiceEndpointName += "@" + domain
	}
}

// abroad takes the domain from the names in what is sent to an endpoint's domain: there they are at home.
func (m *Manager) abroad(c *connection.Connection) {
	if m.Works {
		return
	}
	c.NetworkService, _ = registry.SplitDomain(c.NetworkService)
	c.NetworkServiceEndpointName, _ = registry.SplitDomain(c.NetworkServiceEndpointName)
}
