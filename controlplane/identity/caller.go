package identity

import (
	"context"
	"crypto/x509"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"highwire/vppapi/fault"
)

// Metadata keys of the NSM wire (wire description, section 1.7).
const (
	tokenKey   = "nsm-client-token"
	expiresKey = "nsm-client-token-expires"
)

// Caller is who made an RPC.
type Caller struct {
	// ID is the SPIFFE id of the TLS peer.
	ID string
	// Certificate is the peer's leaf, the one that CheckSigned wants.
	Certificate *x509.Certificate
	// Token is what the caller sent along; zero when it sent none. Its subject is ID and its audience is us; the signature
	// is not checked yet.
	Token Token
}

// PeerOf is the SPIFFE id of the TLS peer of the RPC in ctx; fault.Denied where it showed none.
func PeerOf(ctx context.Context) (string, error) {
	conn, err := connectionOf(ctx)
	if err != nil {
		return "", err
	}
	return conn.SPIFFEID.String(), nil
}

// CallerOf tells who made the RPC in ctx. Without a SPIFFE peer, and with a token that is damaged or not from that peer to
// us, it is fault.Denied.
func CallerOf(ctx context.Context) (Caller, error) {
	conn, err := connectionOf(ctx)
	if err != nil {
		return Caller{}, err
	}
	c := Caller{ID: conn.SPIFFEID.String(), Certificate: conn.State.PeerCertificates[0]}
	c.Token, err = tokenOf(ctx)
	if err != nil || c.Token.JWT == "" {
		return c, err
	}
	claims, err := parse(c.Token.JWT)
	switch {
	case err != nil:
		return Caller{}, fault.New(fault.Denied, "token of %s: %w", c.ID, err)
	case claims.Subject != c.ID:
		return Caller{}, fault.New(fault.Denied, "token of %s: its subject is %s", c.ID, claims.Subject)
	case conn.svid != nil && claims.Audience[0] != conn.svid.ID.String():
		return Caller{}, fault.New(fault.Denied, "token of %s: it is for %s, not for us", c.ID, claims.Audience[0])
	}
	// A token expires when it says so, whatever is said about it.
	if exp := claims.Expires.Time; c.Token.Expires.IsZero() || exp.Before(c.Token.Expires) {
		c.Token.Expires = exp
	}
	return c, nil
}

// tokenOf reads the token's metadata as sent.
func tokenOf(ctx context.Context) (Token, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	tokens, expires := md.Get(tokenKey), md.Get(expiresKey)
	if len(tokens) == 0 {
		return Token{}, nil
	}
	if len(tokens) > 1 || len(expires) > 1 {
		return Token{}, fault.New(fault.Denied, "metadata %s: %d values, %s: %d values; want one each", tokenKey, len(tokens), expiresKey, len(expires))
	}
	t := Token{JWT: tokens[0]}
	if len(expires) == 1 {
		var err error
		if t.Expires, err = time.Parse(time.RFC3339Nano, expires[0]); err != nil {
			return Token{}, fault.New(fault.Denied, "metadata %s: want a time as in RFC 3339: %w", expiresKey, err)
		}
	}
	return t, nil
}

func connectionOf(ctx context.Context) (authInfo, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return authInfo{}, fault.New(fault.Denied, "the RPC did not come over a transport")
	}
	conn, ok := asAuthInfo(p.AuthInfo)
	if !ok {
		return authInfo{}, fault.New(fault.Denied, "the peer at %s showed no SPIFFE identity; connect with mutual TLS and an X509-SVID", p.Addr)
	}
	return conn, nil
}

// asAuthInfo accepts connections made with other TLS credentials than ours too; only their svid is unknown then.
func asAuthInfo(info credentials.AuthInfo) (authInfo, bool) {
	var conn authInfo
	switch info := info.(type) {
	case authInfo:
		conn = info
	case credentials.TLSInfo:
		conn.TLSInfo = info
	}
	return conn, conn.SPIFFEID != nil && len(conn.State.PeerCertificates) > 0
}
