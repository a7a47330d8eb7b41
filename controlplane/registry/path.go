package registry

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"highwire/controlplane/identity"
	"highwire/vppapi/fault"
)

// pathKey is the metadata key of a registration's path: in the request's metadata, and in the answer's header (§3.8).
const pathKey = "path"

const (
	maxPathBytes = 256 << 10
	maxPathHops  = 16
)

// path is the hops a registration came through, as JSON on the wire. Nothing of it is kept.
type path struct {
	Index        uint32
	PathSegments []pathSegment
}

type pathSegment struct {
	Token string `json:"token"`
}

// parsePath reads a path; text "" is the path of a caller that starts one. All errors are fault.Invalid.
func parsePath(text string) (path, error) {
	var p path
	if text == "" {
		return p, nil
	}
	if len(text) > maxPathBytes {
		return p, fault.New(fault.Invalid, "metadata %s has %d bytes; the limit is %d", pathKey, len(text), maxPathBytes)
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return path{}, fault.New(fault.Invalid, "metadata %s: %w", pathKey, err)
	}
	switch n := len(p.PathSegments); {
	case n > maxPathHops:
		return path{}, fault.New(fault.Invalid, "metadata %s has %d segments; the limit is %d", pathKey, n, maxPathHops)
	case n == 0 && p.Index == 0, int64(p.Index) < int64(n):
		return p, nil
	default:
		return path{}, fault.New(fault.Invalid, "metadata %s: Index is %d, but there are %d segments", pathKey, p.Index, n)
	}
}

// enter puts the caller's token into its segment and ours behind it, where the path then ends. What a former answer of ours
// left there is replaced.
func (p path) enter(caller, own string) path {
	segments := make([]pathSegment, 0, p.Index+2)
	if len(p.PathSegments) > 0 {
		segments = append(segments, p.PathSegments[:p.Index]...)
	}
	p.PathSegments = append(segments, pathSegment{caller}, pathSegment{own})
	return p
}

func (p path) tokens() []string {
	tokens := make([]string, len(p.PathSegments))
	for i, s := range p.PathSegments {
		tokens[i] = s.Token
	}
	return tokens
}

// passage is a registration that was let in: who it comes from and what to answer.
type passage struct {
	path   path
	caller identity.Token
	own    identity.Token
	// ids are the SPIFFE ids of the hops: the owner of what is registered first, we last.
	ids []string
}

// admit reads the caller and its path, adds our segment and checks the rules of §4.3. Errors are fault.Denied, and
// fault.Invalid for a path that is none.
func (r *Registry) admit(ctx context.Context) (passage, error) {
	caller, err := identity.CallerOf(ctx)
	if err != nil {
		return passage{}, err
	}
	if caller.Token.JWT == "" {
		return passage{}, fault.New(fault.Denied, "%s sent no token: metadata nsm-client-token and nsm-client-token-expires are missing", caller.ID)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	var text string
	if values := md.Get(pathKey); len(values) > 0 {
		text = values[0]
	}
	p, err := parsePath(text)
	if err != nil {
		return passage{}, err
	}
	own, err := r.identity.Reply(ctx)
	if err != nil {
		return passage{}, err
	}
	a := passage{path: p.enter(caller.Token.JWT, own.JWT), caller: caller.Token, own: own}
	tokens := a.path.tokens()
	if err := identity.CheckValid(tokens, time.Now()); err != nil {
		return passage{}, err
	}
	if err := identity.CheckChained(tokens); err != nil {
		return passage{}, err
	}
	if err := identity.CheckSigned(caller.Token.JWT, caller.Certificate); err != nil {
		return passage{}, err
	}
	for _, token := range tokens {
		id, err := identity.Subject(token)
		if err != nil {
			return passage{}, err
		}
		a.ids = append(a.ids, id)
	}
	return a, nil
}

// relayed takes over what another registry, which the registration was handed on to, made of its path.
func (a *passage) relayed(r *relay) {
	if r.ids != nil {
		a.ids = r.ids
	}
	a.path.PathSegments = r.path.PathSegments
}

// owns is the rule "owner": what is registered belongs to the first hop it came through.
func (a *passage) owns(what, name string, ids []string) error {
	if len(ids) > 0 && ids[0] != a.ids[0] {
		return fault.New(fault.Denied, "rule \"owner\": %s %q is registered by %s, you are %s; unregister it there or use another name", what, name, ids[0], a.ids[0])
	}
	return nil
}

// answer sends the path back in the response header.
func (a *passage) answer(ctx context.Context) error {
	text, err := json.Marshal(a.path)
	if err != nil {
		return fault.New(fault.Internal, "path: %w", err)
	}
	return grpc.SetHeader(ctx, metadata.Pairs(pathKey, string(text)))
}
