package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
)

// Handler is a hop of connections: manager.Manager in the middle, endpoint.Endpoint at the end.
type Handler interface {
	// Request makes or refreshes a connection of the caller. files is nil where the transport carries none.
	Request(ctx context.Context, caller identity.Caller, files hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error)
	// Close ends a connection; an unknown one is no error.
	Close(ctx context.Context, caller identity.Caller, c *connection.Connection) error
	// Watch sends what matches now and then every change, until ctx ends.
	Watch(ctx context.Context, s *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error
}

type networkServices struct {
	networkservice.UnimplementedNetworkServiceServer
	handler Handler
}

func (n networkServices) Request(ctx context.Context, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	caller, err := identity.CallerOf(ctx)
	if err != nil {
		return nil, err
	}
	return n.handler.Request(ctx, caller, hop.FilesOf(ctx), r)
}

func (n networkServices) Close(ctx context.Context, c *connection.Connection) (*emptypb.Empty, error) {
	caller, err := identity.CallerOf(ctx)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, n.handler.Close(ctx, caller, c)
}

type monitors struct {
	connection.UnimplementedMonitorConnectionServer
	handler Handler
}

func (m monitors) MonitorConnections(s *connection.MonitorScopeSelector, stream grpc.ServerStreamingServer[connection.ConnectionEvent]) error {
	return m.handler.Watch(stream.Context(), s, stream.Send)
}
