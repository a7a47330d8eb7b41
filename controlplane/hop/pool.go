package hop

import (
	"context"

	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Listener hears what next hops report about connections: an event, or nil when the hop's monitor stream broke, which
// means that nobody knows any more whether its connections are alive.
type Listener func(next *Next, event *connection.ConnectionEvent)

// maxAge is how long calls may begin on one transport connection. A connection keeps the certificate it was made with, so
// it must not be used for longer than an SVID lives.
const maxAge = 30 * time.Second

// Pool keeps one transport connection, with one monitor stream, to each next hop in use.
type Pool struct {
	name    string
	options []grpc.DialOption
	ctx     context.Context
	stop    context.CancelFunc
	streams sync.WaitGroup

	mu     sync.Mutex
	listen Listener
	hops   map[string]*Next
}

// NewPool makes an empty pool. name is the path segment name of the hop that calls; options are those of
// identity.Source.DialOptions.
func NewPool(name string, options ...grpc.DialOption) *Pool {
	ctx, stop := context.WithCancel(context.Background())
	return &Pool{name: name, options: options, ctx: ctx, stop: stop, hops: map[string]*Next{}}
}

// Listen sets who hears events; call it before the first Dial.
func (p *Pool) Listen(l Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listen = l
}

// Close ends all monitor streams and connections and waits for them. Further calls fail.
func (p *Pool) Close() {
	p.stop()
	p.streams.Wait()
}

// Dial returns the next hop at the gRPC target, connecting when it is first called. key tells two hops apart that have the
// same target at different times (a socket reached through a file descriptor). Release it when it is no longer used.
func (p *Pool) Dial(key, target string) (*Next, error) {
	key += " " + target
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, fault.New(fault.Unavailable, "stopping")
	}
	if n := p.hops[key]; n != nil && time.Since(n.made) < maxAge {
		n.users++
		return n, nil
	}
	conn, err := Dial(target, p.options...)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(p.ctx)
	n := &Next{pool: p, key: key, conn: conn, made: time.Now(), stop: stop, users: 1}
	p.hops[key] = n
	listen := p.listen
	p.streams.Go(func() {
		defer conn.Close()
		n.monitor(ctx, p.name, listen)
		<-ctx.Done()
	})
	return n, nil
}

// Next is a next hop that can be called.
type Next struct {
	pool  *Pool
	key   string
	conn  *grpc.ClientConn
	made  time.Time
	stop  context.CancelFunc
	users int       // under pool.mu
	since time.Time // under pool.mu
}

// Since is when the hop was asked last to tell of its connections: its INITIAL_STATE_TRANSFER has all that it answered before.
func (n *Next) Since() time.Time {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	return n.since
}

// Hold counts one more user.
func (n *Next) Hold() *Next {
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	n.users++
	return n
}

// Release counts one user less; after the last one the connection closes. A nil Next has nothing to release.
func (n *Next) Release() {
	if n == nil {
		return
	}
	n.pool.mu.Lock()
	defer n.pool.mu.Unlock()
	if n.users--; n.users > 0 {
		return
	}
	n.stop()
	if n.pool.hops[n.key] == n {
		delete(n.pool.hops, n.key)
	}
}

// Request calls the next hop and checks what comes back: the path up to our own segment must be as sent, and the tokens
// must be those of the wire page, §4.3. Files are those that come with the answer. Errors of the hop keep their text.
func (n *Next) Request(ctx context.Context, r *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*connection.Connection, Files, error) {
	var from peer.Peer
	answer, err := networkservice.NewNetworkServiceClient(n.conn).Request(ctx, r, append(options, grpc.Peer(&from))...)
	if err != nil {
		return nil, nil, FromStatus(err)
	}
	if err := CheckAnswer(r.Connection, answer, &from); err != nil {
		return answer, nil, err
	}
	return answer, filesOfPeer(&from), nil
}

// Close closes a connection at the next hop.
func (n *Next) Close(ctx context.Context, c *connection.Connection) error {
	_, err := networkservice.NewNetworkServiceClient(n.conn).Close(ctx, c)
	return FromStatus(err)
}

// CheckAnswer checks what the server at peer answered to a Request for sent: index, id and path up to our own segment
// unchanged, tokens valid, unexpired and chained, the next segment's signed by the server. Errors are fault.Denied.
func CheckAnswer(sent, answer *connection.Connection, from *peer.Peer) error {
	if err := CheckConnection(answer); err != nil {
		return fault.New(fault.Denied, "the answer is damaged: %w", err)
	}
	own := int(sent.Path.Index)
	segments := answer.Path.PathSegments
	if answer.Path.Index != sent.Path.Index || answer.Id != sent.Id || len(segments) < own+2 {
		return fault.New(fault.Denied, "the answer has index %d, id %q and %d segments; want index %d, id %q and at least %d",
			answer.Path.Index, answer.Id, len(segments), own, sent.Id, own+2)
	}
	for i, s := range sent.Path.PathSegments[:own+1] {
		if segments[i].Name != s.Name || segments[i].Id != s.Id {
			return fault.New(fault.Denied, "the answer changed path segment %d from %s %s to %s %s", i, s.Name, s.Id, segments[i].Name, segments[i].Id)
		}
	}
	// Only the peer is in this context: metadata of the RPC we are serving belongs to somebody else.
	server, err := identity.CallerOf(peer.NewContext(context.Background(), from))
	if err != nil {
		return err
	}
	tokens := Tokens(segments)
	if err := identity.CheckValid(tokens, time.Now()); err != nil {
		return err
	}
	if err := identity.CheckChained(tokens); err != nil {
		return err
	}
	return identity.CheckSigned(tokens[own+1], server.Certificate)
}

// monitor listens to the hop until ctx ends, or until the hop says that it has no monitor.
func (n *Next) monitor(ctx context.Context, name string, listen Listener) {
	selector := &connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Name: name}}}
	wait := backoff.NewExponentialBackOff()
	wait.MaxInterval = 5 * time.Second
	for {
		heard, err := n.stream(ctx, selector, listen)
		switch {
		case ctx.Err() != nil || status.Code(err) == codes.Unimplemented:
			return
		case heard:
			wait.Reset()
			listen(n, nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.NextBackOff()):
		}
	}
}

func (n *Next) stream(ctx context.Context, selector *connection.MonitorScopeSelector, listen Listener) (heard bool, err error) {
	n.pool.mu.Lock()
	n.since = time.Now()
	n.pool.mu.Unlock()
	stream, err := connection.NewMonitorConnectionClient(n.conn).MonitorConnections(ctx, selector)
	if err != nil {
		return false, err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		heard = true
		listen(n, event)
	}
}
