package client

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// patience is how many refreshes may fail before the endpoint is given up.
const patience = 5

// session keeps the connection of one service.
type session struct {
	client *Client
	index  int
	log    *slog.Logger

	// conn is the connection as last answered, or as wanted.
	conn *connection.Connection
	// up: the last Request succeeded and nothing was lost since.
	up bool
	// reselect: the next Request leaves the endpoint open.
	reselect bool
}

// outcome is how a round ended.
type outcome int

const (
	due    outcome = iota // time to refresh, or the server asks for it
	kept                  // the connection is there and stays, for the next client of the name
	broken                // the stream ended: the server may be gone, or only have been restarted
	down                  // the server says that the connection is down or deleted
	dead                  // nothing answers at the other side
	ended                 // ctx ended
)

// run requests the connection and stays with it until ctx ends, or until it is there if the client is an Init one.
func (s *session) run(ctx context.Context) {
	// One after the other at first, so that each knows what addresses the others got.
	s.client.first.Lock()
	unlock := s.client.first.Unlock
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 200*time.Millisecond, 5*time.Second
	failures := 0
	s.adopt(ctx)
	for ctx.Err() == nil {
		result, err := s.round(ctx, func() { unlock(); unlock = func() {} })
		if err == nil {
			if result == kept {
				return
			}
			failures = 0
			// Packets may flow though a server says otherwise (§3.6): then the same endpoint is asked again, in a while.
			lost := result == dead || result == down && !s.alive(ctx)
			if lost {
				s.lose(ctx)
			}
			if result != down || lost {
				wait.Reset()
			}
			if result == due || lost {
				continue
			}
		} else if ctx.Err() == nil {
			failures++
			s.log.Warn("request failed", "error", err)
			s.event(Failed, err)
			if failures == patience || refused(err) {
				s.lose(ctx)
			}
		}
		unlock()
		unlock = func() {}
		select {
		case <-ctx.Done():
		case <-time.After(wait.NextBackOff()):
		}
	}
	unlock()
}

// refused: asking the same again is of no use.
func refused(err error) bool {
	switch fault.KindOf(err) {
	case fault.Denied, fault.Invalid, fault.NotFound:
		return true
	}
	return false
}

// round requests or refreshes the connection and stays with it until something is to be done. asked is called when the
// Request has succeeded.
func (s *session) round(ctx context.Context, asked func()) (outcome, error) {
	conn, err := hop.Dial(s.client.target, s.client.Source.DialOptions()...)
	if err != nil {
		return ended, err
	}
	defer conn.Close()
	if err := s.request(ctx, conn); err != nil {
		return ended, err
	}
	asked()
	if s.client.Init {
		return kept, nil
	}
	refresh := time.NewTimer(refreshDelay(s.conn, time.Now()))
	defer refresh.Stop()
	ctx, cancel := context.WithCancel(ctx)
	news := make(chan outcome, 2)
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer cancel()
	listeners.Go(func() { news <- s.listen(ctx, conn) })
	listeners.Go(func() {
		if s.dies(ctx) {
			news <- dead
		}
	})
	select {
	case <-ctx.Done():
		return ended, nil
	case <-refresh.C:
		return due, nil
	case o := <-news:
		return o, nil
	}
}

func (s *session) request(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, s.client.RequestTimeout)
	defer cancel()
	service := s.client.Services[s.index]
	ask := proto.CloneOf(s.conn)
	ask.State = connection.State_UP
	if s.reselect {
		ask.State, ask.Mechanism, ask.NetworkServiceEndpointName = connection.State_RESELECT_REQUESTED, nil, ""
	}
	if ask.Context == nil {
		ask.Context = &connectioncontext.ConnectionContext{}
	}
	if ask.Context.IpContext == nil {
		ask.Context.IpContext = &connectioncontext.IPContext{}
	}
	if s.client.names != nil {
		ask.Context.DnsContext = &connectioncontext.DNSContext{} // for the endpoint to fill, and not what another one has left
	}
	excluded := s.client.excluded(s.index)
	ask.Context.IpContext.ExcludedPrefixes = excluded
	var from peer.Peer
	answer, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, &networkservice.NetworkServiceRequest{
		Connection: ask, MechanismPreferences: []*connection.Mechanism{s.client.preference(service)},
	}, grpc.Peer(&from), hop.WithFile(s.client.namespace), grpc.WaitForReady(true))
	if err != nil {
		return hop.FromStatus(err)
	}
	err = hop.CheckAnswer(ask, answer, &from)
	if err == nil {
		err = s.client.check(service, ask, answer, excluded)
	}
	if err != nil {
		// The server made something; it must not stay.
		s.close(ctx, conn, ask)
		return err
	}
	s.conn, s.reselect = answer, false
	s.client.use(s.index, answer)
	kind := Refreshed
	if !s.up {
		kind = Connected
		s.up = true
	}
	s.event(kind, nil)
	return nil
}

// listen reads the connection's monitor stream until it says something that ends the round (§3.5, §3.6).
func (s *session) listen(ctx context.Context, conn *grpc.ClientConn) outcome {
	id := s.conn.Id
	stream, err := connection.NewMonitorConnectionClient(conn).MonitorConnections(ctx, &connection.MonitorScopeSelector{
		PathSegments: []*connection.PathSegment{{Name: s.client.Name, Id: id}},
	})
	if err != nil {
		return broken
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return broken
		}
		for _, c := range event.Connections {
			if len(c.GetPath().GetPathSegments()) == 0 || c.Path.PathSegments[0].Id != id {
				continue
			}
			switch {
			case event.Type == connection.ConnectionEventType_DELETE || c.State == connection.State_DOWN:
				return down
			case c.State == connection.State_REFRESH_REQUESTED:
				return due
			}
		}
	}
}

// lose closes what is left of the connection and has the next Request choose the endpoint anew.
func (s *session) lose(ctx context.Context) {
	if s.up {
		s.up = false
		s.event(Lost, nil)
	}
	s.reselect = true
	s.closeOnce(ctx)
	s.conn = proto.CloneOf(s.conn)
	s.conn.Mechanism = nil
}

// end closes the connection when the client ends.
func (s *session) end(ctx context.Context) {
	if s.conn.Mechanism == nil {
		return
	}
	s.closeOnce(context.WithoutCancel(ctx))
	s.event(Closed, nil)
}

// closeOnce tries to close the connection; if that fails it expires.
func (s *session) closeOnce(ctx context.Context) {
	if s.conn.Mechanism == nil {
		return
	}
	conn, err := hop.Dial(s.client.target, s.client.Source.DialOptions()...)
	if err != nil {
		return
	}
	defer conn.Close()
	s.close(ctx, conn, s.conn)
}

func (s *session) close(ctx context.Context, conn *grpc.ClientConn, c *connection.Connection) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.client.RequestTimeout, 5*time.Second))
	defer cancel()
	if _, err := networkservice.NewNetworkServiceClient(conn).Close(ctx, c, hop.WithFile(s.client.namespace)); err != nil {
		s.log.Warn("not closed; the connection will expire", "error", hop.FromStatus(err))
	}
}

func (s *session) event(kind EventKind, err error) {
	e := Event{Kind: kind, Service: s.index, Err: err}
	if s.conn.Mechanism != nil {
		e.Connection = s.conn
		switch p := s.conn.Mechanism.Parameters; s.conn.Mechanism.Type {
		case mechanisms.Kernel:
			e.Interface = p[mechanisms.ParamName]
		case mechanisms.Memif:
			e.Socket = s.client.socket(p[mechanisms.ParamSocket])
		}
	}
	s.useNames(kind)
	s.client.Events(e)
}

// refreshDelay is when a connection is to be refreshed: after a part of the shortest lifetime of all its tokens (§3.3).
func refreshDelay(c *connection.Connection, now time.Time) time.Duration {
	segments := c.Path.PathSegments
	soonest := segments[0].Expires.AsTime()
	for _, s := range segments {
		if t := s.Expires.AsTime(); t.Before(soonest) {
			soonest = t
		}
	}
	part := 0.2 + 0.2*float64(c.Path.Index)/float64(len(segments))
	if len(segments) == 1 {
		part = 1.0 / 3
	}
	// A server whose tokens end at once must not make us ask without pause.
	return max(time.Duration(float64(soonest.Sub(now))*part), 100*time.Millisecond)
}

// overlap refuses addresses that are excluded one by one (/32, /128).
func overlap(addresses []netip.Prefix, excluded []string) error {
	for _, a := range addresses {
		same := func(s string) bool {
			p, err := netip.ParsePrefix(s)
			return err == nil && p.IsSingleIP() && p.Addr() == a.Addr()
		}
		if slices.ContainsFunc(excluded, same) {
			return fmt.Errorf("the server answered %w", fault.New(fault.Conflict, "address %s, which another connection of this client has", a))
		}
	}
	return nil
}
