package hop

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// Place is where a hop stands in a connection's path.
type Place struct {
	// Received is the index the connection came with; it goes back unchanged.
	Received uint32
	// Own is the index of the hop's own segment; the caller's is the one before.
	Own int
}

// Caller names who a connection belongs to at this hop. It stays the same over refreshes, reconnects and restarts of the hop.
type Caller struct {
	// ID is the caller's SPIFFE id.
	ID string
	// Name and Segment are the name and id of the caller's path segment.
	Name, Segment string
}

// String is for logs and errors.
func (c Caller) String() string { return fmt.Sprintf("%s (segment %s of %s)", c.ID, c.Segment, c.Name) }

// Locate finds the own segment of the hop called name in the path of c, and adds it where there is none, with an id from
// fresh. An own segment whose id is not well-formed gets a fresh one too: ids come from peers. The path is changed, index
// and id of c are set to the own segment (§3.1). All errors are fault.Invalid.
func Locate(c *connection.Connection, name string, fresh func() string) (Place, error) {
	path := c.GetPath()
	segments := path.GetPathSegments()
	i := int64(path.GetIndex())
	if i >= int64(len(segments)) {
		return Place{}, fault.New(fault.Invalid, "connection.path.index is %d, but the path has %d segments", i, len(segments))
	}
	place := Place{Received: path.Index, Own: int(i) + 1}
	switch current := segments[i]; {
	case current.Name == name && i == 0:
		return Place{}, fault.New(fault.Invalid, "connection.path.path_segments[0].name %q is the name of the server itself; give the client another name (NSM_NAME)", name)
	case current.Name == name:
		place.Own = int(i)
	case current.Id != c.Id:
		return Place{}, fault.New(fault.Invalid, "connection.path.path_segments[%d].id is %q, but connection.id is %q", i, current.Id, c.Id)
	case place.Own == len(segments):
		path.PathSegments = append(segments, &connection.PathSegment{Name: name})
	case segments[place.Own].Name != name:
		segments[place.Own] = &connection.PathSegment{Name: name}
	}
	own := path.PathSegments[place.Own]
	if !WellFormedID(own.Id) {
		own.Id = fresh()
	}
	path.Index = uint32(place.Own)
	c.Id = own.Id
	return place, nil
}

// WellFormedID tells whether id can name a vWire: 1 to 48 bytes of [0-9A-Za-z._-].
func WellFormedID(id string) bool {
	if len(id) < 1 || len(id) > 48 {
		return false
	}
	for _, b := range []byte(id) {
		switch {
		case '0' <= b && b <= '9', 'A' <= b && b <= 'Z', 'a' <= b && b <= 'z', b == '.', b == '_', b == '-':
		default:
			return false
		}
	}
	return true
}

// Signer makes the hop's own tokens; identity.Source is one.
type Signer interface {
	// Reply makes a token for the caller of the RPC in ctx.
	Reply(ctx context.Context) (identity.Token, error)
}

// Enter does Locate and then the tokens (§3.2, §4.3): the caller's goes into the caller's segment, one of ours into our own,
// and all up to our own must be valid, unexpired and chained, the caller's signed by the key it speaks TLS with. Errors are
// fault.Invalid for the path and fault.Denied for tokens.
func Enter(ctx context.Context, c *connection.Connection, name string, caller identity.Caller, signer Signer, fresh func() string) (Place, error) {
	place, err := Locate(c, name, fresh)
	if err != nil {
		return Place{}, err
	}
	if caller.Token.JWT == "" {
		return Place{}, fault.New(fault.Denied, "%s sent no token: metadata nsm-client-token and nsm-client-token-expires are missing", caller.ID)
	}
	own, err := signer.Reply(ctx)
	if err != nil {
		return Place{}, err
	}
	segments := c.Path.PathSegments[:place.Own+1]
	setToken(segments[place.Own-1], caller.Token)
	setToken(segments[place.Own], own)
	tokens := Tokens(segments)
	if err := identity.CheckValid(tokens, time.Now()); err != nil {
		return Place{}, err
	}
	if err := identity.CheckChained(tokens); err != nil {
		return Place{}, err
	}
	return place, identity.CheckSigned(caller.Token.JWT, caller.Certificate)
}

func setToken(s *connection.PathSegment, t identity.Token) {
	s.Token, s.Expires = t.JWT, timestamppb.New(t.Expires)
}

// Tokens lists the tokens of segments in order.
func Tokens(segments []*connection.PathSegment) []string {
	tokens := make([]string, len(segments))
	for i, s := range segments {
		tokens[i] = s.GetToken()
	}
	return tokens
}

// CallerOf names the caller of a connection in which the hop stands at place.
func (p Place) CallerOf(c *connection.Connection, spiffeID string) Caller {
	s := c.Path.PathSegments[p.Own-1]
	return Caller{ID: spiffeID, Name: s.Name, Segment: s.Id}
}

// Leave prepares c to go back to the caller: its index and its id. A segment without expiry makes clients refresh without
// pause (§7.1), so one that some hop forgot gets the soonest of the others.
func (p Place) Leave(c *connection.Connection) {
	var soonest *timestamppb.Timestamp
	for _, s := range c.Path.PathSegments {
		if s.Expires.IsValid() && (soonest == nil || s.Expires.AsTime().Before(soonest.AsTime())) {
			soonest = s.Expires
		}
	}
	for _, s := range c.Path.PathSegments {
		if !s.Expires.IsValid() {
			s.Expires = soonest
		}
	}
	c.Path.Index = p.Received
	if p.Own != int(p.Received) {
		c.Id = c.Path.PathSegments[p.Received].Id
	}
}

// Expiry is when a connection whose caller's token lapses at expires must be closed (§3.3): earlier by the time the caller
// gives one Request, so that a refresh under way still finds it. That lead is never more than half the lifetime; short
// tokens would otherwise close the connection before its first refresh.
func Expiry(expires, now, deadline time.Time) time.Time {
	lifetime := expires.Sub(now)
	lead := lifetime / 2
	if !deadline.IsZero() {
		lead = min(lead, max(0, deadline.Sub(now)))
	} else {
		lead = 0
	}
	return expires.Add(-lead)
}
