package endpoint

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Next makes an endpoint a hop in the middle of a chain: for each client it is itself a client of another service, or of
// the same one with other labels, and hands packets on.
type Next struct {
	// Service that it asks for.
	Service string
	// Labels that it asks with; the service's matches choose the next hop by them.
	Labels map[string]string
	// Join begins to hand packets on between two memifs of a connection, in both directions: it listens as master on the socket
	// from, and dials the socket to as slave; both are abstract ones ("@…") in Config.Namespace. end stops that and waits for
	// it. Neither may block.
	Join func(c *connection.Connection, from, to string) (end func(), err error)
}

// passthrough answers Requests as a hop in the middle; it is a server.Handler. Both its ends are memifs: addresses belong to the
// client and to the last endpoint, and a kernel interface in between would take them for its own.
type passthrough struct {
	config    Config
	target    string // of the manager
	pool      *hop.Pool
	namespace *os.File
	inode     mechanisms.Inode
	hub       hop.Hub

	mu   sync.Mutex
	busy map[string]bool // Requests and Closes under way, by connection id
	live map[string]*passed
}

// passed is a connection. It is replaced as a whole by whoever is busy with it.
type passed struct {
	owner hop.Caller
	// conn is at our own segment, with the mechanism towards the caller; beyond is our end of the connection to the next hop.
	conn   *connection.Connection
	beyond *connection.Mechanism
	next   string // endpoint
	// via is held for its monitor stream.
	via   *hop.Next
	timer *time.Timer
	end   func()
}

func (p *passthrough) own(e *passed) int { return int(e.conn.Path.Index) }

// enter makes the caller the only one busy with the connection.
func (p *passthrough) enter(id string) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[id] {
		return nil, fault.New(fault.Unavailable, "an earlier Request or Close of connection %s is still running", id)
	}
	p.busy[id] = true
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.busy, id)
	}, nil
}

func (p *passthrough) find(id string) *passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live[id]
}

// Request connects the caller to what the next hops answer, or goes on with that.
func (p *passthrough) Request(ctx context.Context, caller identity.Caller, _ hop.Files, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
	if err := hop.CheckRequest(r); err != nil {
		return nil, err
	}
	c := proto.CloneOf(r.Connection)
	place, err := hop.Enter(ctx, c, p.config.Name, caller, p.config.Source, uuid.NewString)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	expires := c.Path.PathSegments[place.Own-1].Expires.AsTime()
	if !expires.After(now) {
		return nil, fault.New(fault.Denied, "the token of %s expired at %s", caller.ID, expires.Format(time.RFC3339))
	}
	deadline, _ := ctx.Deadline()
	owner := place.CallerOf(c, caller.ID)
	if old := p.find(c.Id); old != nil && old.owner != owner {
		c.Id = uuid.NewString()
		c.Path.PathSegments[place.Own].Id = c.Id
	}
	leave, err := p.enter(c.Id)
	if err != nil {
		return nil, err
	}
	defer leave()
	e, err := p.connect(ctx, c, p.find(c.Id), owner, r.MechanismPreferences)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.live[c.Id] = e
	e.timer = time.AfterFunc(time.Until(hop.Expiry(expires, now, deadline)), func() { p.expire(e) })
	p.mu.Unlock()
	p.hub.Put(e.conn)
	answer := proto.CloneOf(e.conn)
	place.Leave(answer)
	hop.SendFile(ctx, p.namespace)
	return answer, nil
}

// connect asks the next hop, and has packets handed on. On error old, which may be nil, stands.
func (p *passthrough) connect(ctx context.Context, c *connection.Connection, old *passed, owner hop.Caller, preferences []*connection.Mechanism) (*passed, error) {
	mechanism, err := p.mechanism(c, old, preferences)
	if err != nil {
		return nil, err
	}
	request := p.forward(c, old)
	next, err := p.pool.Dial("", p.target)
	if err != nil {
		return nil, err
	}
	keep := false
	defer func() {
		if !keep {
			next.Release()
		}
	}()
	answer, _, err := next.Request(ctx, request, hop.WithFile(p.namespace))
	if err != nil {
		return nil, err
	}
	to := answer.GetMechanism().GetParameters()[mechanisms.ParamSocket]
	if answer.GetMechanism().GetType() != mechanisms.Memif || !strings.HasPrefix(to, "@") {
		p.closeNext(ctx, request.Connection)
		return nil, fault.New(fault.Unavailable, "network service %s answered no memif with an abstract socket", request.Connection.NetworkService)
	}
	c.Mechanism, c.Context, c.Path, c.State = mechanism, answer.Context, answer.Path, connection.State_UP
	c.NetworkServiceEndpointName = p.config.Name
	e := &passed{owner: owner, conn: c, beyond: answer.Mechanism, next: answer.NetworkServiceEndpointName, via: next}
	if old != nil && sameMemif(old.conn, c) && proto.Equal(old.beyond, e.beyond) {
		keep = true
		old.timer.Stop()
		old.via.Release()
		e.end = old.end
		return e, nil
	}
	if old != nil {
		p.drop(old)
	}
	if e.end, err = p.config.Next.Join(c, mechanism.Parameters[mechanisms.ParamSocket], to); err != nil {
		if old != nil {
			p.remove(old)
		}
		p.closeNext(ctx, request.Connection)
		return nil, err
	}
	keep = true
	if old == nil {
		slog.Info("connection opened", "connection", c.Id, "service", c.NetworkService, "client", owner.Name, "next", e.next)
		p.config.Events(Event{Kind: Opened, Connection: c})
	}
	return e, nil
}

// mechanism is a memif whose socket is our own; old keeps its socket.
func (p *passthrough) mechanism(c *connection.Connection, old *passed, preferences []*connection.Mechanism) (*connection.Mechanism, error) {
	if hop.Chosen(c) {
		preferences = []*connection.Mechanism{c.Mechanism}
	}
	for _, o := range preferences {
		if o.Type != mechanisms.Memif || o.Cls == string(mechanisms.Remote) {
			continue
		}
		socket := "@highwire/" + uuid.NewString() + "/memif.sock"
		if old != nil {
			socket = old.conn.Mechanism.Parameters[mechanisms.ParamSocket]
		}
		return &connection.Mechanism{Cls: string(mechanisms.Local), Type: mechanisms.Memif, Parameters: map[string]string{
			mechanisms.ParamInode: p.inode.String(), mechanisms.ParamSocket: socket,
		}}, nil
	}
	return nil, fault.New(fault.Invalid, "mechanism_preferences: this endpoint hands packets on between memifs, and takes nothing else")
}

// forward is our own request, with the path so far and what we know of the hops after us.
func (p *passthrough) forward(c *connection.Connection, old *passed) *networkservice.NetworkServiceRequest {
	ask := proto.CloneOf(c)
	ask.NetworkService, ask.Labels = p.config.Next.Service, p.config.Next.Labels
	ask.Mechanism, ask.NetworkServiceEndpointName, ask.State = nil, "", connection.State_UP
	ask.Path.PathSegments = ask.Path.PathSegments[:ask.Path.Index+1]
	if old != nil {
		ask.Mechanism, ask.NetworkServiceEndpointName = proto.CloneOf(old.beyond), old.next
		for _, s := range old.conn.Path.PathSegments[p.own(old)+1:] {
			ask.Path.PathSegments = append(ask.Path.PathSegments, proto.CloneOf(s))
		}
	}
	return &networkservice.NetworkServiceRequest{Connection: ask, MechanismPreferences: []*connection.Mechanism{{
		Cls: string(mechanisms.Local), Type: mechanisms.Memif, Parameters: map[string]string{mechanisms.ParamInode: p.inode.String()},
	}}}
}

// Close ends a connection here and at the next hops; an unknown one is no error.
func (p *passthrough) Close(ctx context.Context, caller identity.Caller, c *connection.Connection) error {
	if err := hop.CheckPath(c); err != nil {
		return err
	}
	c = proto.CloneOf(c)
	place, err := hop.Enter(ctx, c, p.config.Name, caller, p.config.Source, uuid.NewString)
	if err != nil {
		return err
	}
	leave, err := p.enter(c.Id)
	if err != nil {
		return err
	}
	defer leave()
	e := p.find(c.Id)
	switch {
	case e == nil:
		return nil
	case e.owner != place.CallerOf(c, caller.ID):
		return fault.New(fault.Denied, "connection %s belongs to %s", c.Id, e.owner)
	}
	// The tokens up to ours are fresh in what came; what is after us is known here.
	ask := p.forward(c, e).Connection
	p.remove(e)
	p.closeNext(ctx, ask)
	return nil
}

// closeTime bounds what is closed after the caller has gone.
const closeTime = 5 * time.Second

func (p *passthrough) closeNext(ctx context.Context, ask *connection.Connection) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	next, err := p.pool.Dial("", p.target)
	if err == nil {
		defer next.Release()
		err = next.Close(ctx, ask, hop.WithFile(p.namespace))
	}
	if err != nil {
		slog.Warn("not closed at the next hop; it will expire there", "connection", ask.Id, "error", err)
	}
}

// drop ends what serves e, once.
func (p *passthrough) drop(e *passed) {
	e.timer.Stop()
	e.end()
	e.via.Release()
	e.end, e.via = func() {}, nil
}

// remove forgets e.
func (p *passthrough) remove(e *passed) {
	p.mu.Lock()
	delete(p.live, e.conn.Id)
	p.mu.Unlock()
	p.drop(e)
	p.hub.Remove(e.conn.Id)
	p.config.Events(Event{Kind: Closed, Connection: e.conn})
}

// expire closes a connection that was not refreshed in time (§3.3). The next hops have heard nothing either and do the same.
func (p *passthrough) expire(e *passed) {
	leave, err := p.enter(e.conn.Id)
	if err != nil {
		return // it is being refreshed or closed
	}
	defer leave()
	if p.find(e.conn.Id) == e {
		slog.Info("connection expired", "connection", e.conn.Id)
		p.remove(e)
	}
}

// heard passes on what the next hop says of connections: one that it lost is DOWN here.
func (p *passthrough) heard(_ *hop.Next, event *connection.ConnectionEvent) {
	down := map[string]bool{}
	p.mu.Lock()
	for id, e := range p.live {
		if event == nil {
			down[id] = true
		}
		for _, c := range event.GetConnections() {
			// The manager shows the connection of our caller too, which has us in its path as well.
			after := p.own(e) + 1
			if after < len(c.GetPath().GetPathSegments()) && int(c.Path.Index) == after && c.Path.PathSegments[after-1].Id == id {
				down[id] = event.Type == connection.ConnectionEventType_DELETE || c.State == connection.State_DOWN
			}
		}
	}
	p.mu.Unlock()
	for id, is := range down {
		state := connection.State_UP
		if is {
			state = connection.State_DOWN
		}
		p.hub.SetState(id, state)
	}
}

// Watch tells send of all connections that match and of their changes; see hop.Hub.
func (p *passthrough) Watch(ctx context.Context, s *connection.MonitorScopeSelector, send func(*connection.ConnectionEvent) error) error {
	return p.hub.Watch(ctx, s, send)
}

func (p *passthrough) closeAll() {
	p.pool.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.live {
		p.drop(e)
	}
}
