package server

import (
	"cmp"
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Limits bound what one peer can make a mesh server hold. Zero fields have the defaults.
type Limits struct {
	// MessageBytes of one message, 0 for 1 MiB: a Request with everything at its limit has less.
	MessageBytes int
	// CallsPerIdentity are RPCs of one SPIFFE id under way at a time, streams included, 0 for 8192.
	CallsPerIdentity int
	// SendTime is how long a peer may take nothing of a stream before the stream ends with fault.Exhausted, 0 for 30 s.
	SendTime time.Duration
}

// maxHeaders bounds the metadata of an RPC, in bytes: the token, and for registries the tokens of a path.
const maxHeaders = 256 << 10

func (l Limits) withDefaults() Limits {
	l.MessageBytes = cmp.Or(l.MessageBytes, 1<<20)
	l.CallsPerIdentity = cmp.Or(l.CallsPerIdentity, 8192)
	l.SendTime = cmp.Or(l.SendTime, 30*time.Second)
	return l
}

// calls counts the RPCs under way of each identity.
type calls struct {
	most int
	mu   sync.Mutex
	of   map[string]int
}

// begin counts one more; end must be called when it is over. Peers without an identity are no business of it.
func (c *calls) begin(ctx context.Context) (end func(), err error) {
	id, err := identity.PeerOf(ctx)
	if err != nil {
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[id] >= c.most {
		return nil, fault.New(fault.Exhausted, "%s has %d calls and streams under way here, which is the limit", id, c.most)
	}
	c.of[id]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.of[id]--; c.of[id] == 0 {
			delete(c.of, id)
		}
	}, nil
}

func (c *calls) unary(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	end, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	return handle(ctx, r)
}

func (c *calls) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	end, err := c.begin(stream.Context())
	if err != nil {
		return err
	}
	defer end()
	return handle(srv, stream)
}

// impatient is a stream that ends when its receiver takes nothing.
type impatient struct {
	grpc.ServerStream
	most time.Duration
}

// SendMsg gives up after a while. The send itself then ends with the stream, as soon as the handler has returned.
func (s impatient) SendMsg(m any) error {
	sent := make(chan error, 1)
	go func() { sent <- s.ServerStream.SendMsg(m) }()
	late := time.NewTimer(s.most)
	defer late.Stop()
	select {
	case err := <-sent:
		return err
	case <-late.C:
		return fault.New(fault.Exhausted, "nothing of the stream was taken for %v, it is dropped; open it again", s.most)
	}
}

func (l Limits) impatient(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(srv, impatient{stream, l.SendTime})
}
