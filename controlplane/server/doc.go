// Package server puts the control plane on sockets.
//
// A Server made by New serves the mesh: NetworkService, MonitorConnection, whatever registries are added, and health, over
// mutual TLS on unix and TCP sockets. One made by NewAdmin serves inspection to the user who runs the agent, on a unix socket
// of mode 0600 without TLS.
//
// This is the only place that knows gRPC codes: handlers return errors with kinds (package fault), and UnaryErrors and
// StreamErrors turn the kind into a code and keep the text.
package server
