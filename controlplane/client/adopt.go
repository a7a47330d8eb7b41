package client

import (
	"context"

	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
)

// adopt takes up the connection that a former life of this client has left at the server (§5.2), if it is there. A server
// that does not say is asked for a new one.
func (s *session) adopt(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.client.RequestTimeout)
	defer cancel()
	conn, err := hop.Dial(s.client.target, s.client.Source.DialOptions()...)
	if err != nil {
		return
	}
	defer conn.Close()
	own := s.conn.Path.PathSegments[0]
	stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, &connection.MonitorScopeSelector{
		PathSegments: []*connection.PathSegment{{Id: own.Id}},
	})
	if err != nil {
		return
	}
	event, err := stream.Recv()
	if err != nil {
		return
	}
	for _, c := range event.Connections {
		segments := c.GetPath().GetPathSegments()
		if len(segments) < 2 || c.Path.Index != 1 || segments[0].Id != own.Id || segments[0].Name != own.Name ||
			c.NetworkService != s.conn.NetworkService || c.GetMechanism().GetType() != s.client.Services[s.index].Mechanism {
			continue
		}
		adopted := proto.CloneOf(c)
		adopted.Id, adopted.Path.Index, adopted.Labels = own.Id, 0, s.conn.Labels
		have, want := adopted.Mechanism.Parameters, s.client.preference(s.client.Services[s.index]).Parameters
		if name := want[mechanisms.ParamName]; have[mechanisms.ParamInode] != want[mechanisms.ParamInode] || name != "" && name != have[mechanisms.ParamName] {
			adopted.Mechanism = nil // the namespace is another one, or the interface is to be
		}
		s.conn = adopted
		s.reselect = c.State == connection.State_DOWN && !s.alive(ctx)
		s.log.Info("taking up the connection of a former life", "endpoint", c.NetworkServiceEndpointName)
		return
	}
}
