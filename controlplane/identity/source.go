// Package identity says who is who: SPIFFE identities for transports, tokens for the path of a connection.
//
//  1. A Source gets this process's X509-SVID from a Workload API socket (SPIRE, or the CA below) and keeps it fresh.
//  2. Every socket of the mesh is mutual TLS with these certificates, unix sockets too; any identity of a known trust
//     domain may connect. Under TLS, files can be passed on unix sockets (package filepass).
//  3. Every RPC carries a token of its caller: a JWT for exactly one audience, the TLS peer, signed with the key of the
//     caller's certificate on that connection. CallerOf reads it on the other side.
//  4. Tokens of all hops travel in a path. CheckValid, CheckChained and CheckSigned are the rules a path must keep.
//
// CA is a certificate authority for development: it serves the Workload API by itself, so that everything above works
// with nothing else installed.
package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"

	"highwire/vppapi/fault"
)

// DefaultTokenLifetime is how long a token is good for unless WithTokenLifetime says otherwise. Clients refresh their
// connections after a fifth of it.
const DefaultTokenLifetime = 10 * time.Minute

// Source holds this process's SVID and the bundles of the trust domains it knows, kept fresh from a Workload API. It is
// safe for concurrent use.
type Source struct {
	x509          *workloadapi.X509Source
	tokenLifetime time.Duration
	tokens        tokens
	chains        recent[chain, time.Time] // good until
}

// SourceOption changes what NewSource makes.
type SourceOption func(*Source)

// WithTokenLifetime limits the lifetime of tokens; the certificate's end limits it too.
func WithTokenLifetime(d time.Duration) SourceOption {
	return func(s *Source) { s.tokenLifetime = d }
}

// NewSource connects to the Workload API at addr, written as in SPIFFE_ENDPOINT_SOCKET: unix:///path or tcp://ip:port. It
// waits for the first SVID until ctx ends (fault.Unavailable); afterwards it reconnects by itself, and ctx has no more
// meaning. An SVID whose key is not ECDSA P-256 is fault.Invalid: tokens are signed with it.
func NewSource(ctx context.Context, addr string, opts ...SourceOption) (*Source, error) {
	s := &Source{tokenLifetime: DefaultTokenLifetime}
	for _, o := range opts {
		o(s)
	}
	if err := workloadapi.ValidateAddress(addr); err != nil {
		return nil, fault.New(fault.Invalid, "Workload API address %q: %w; want unix:///path or tcp://ip:port", addr, err)
	}
	x509, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(
		workloadapi.WithAddr(addr), workloadapi.WithBackoffStrategy(retry{}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(reconnect))))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "no SVID from the Workload API at %s: %w; is it running, and is this process registered there?", addr, err)
	}
	s.x509 = x509
	if _, err := s.svid(); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the connection to the Workload API. Connections made with the source's credentials stay; new ones and new
// tokens fail.
func (s *Source) Close() error { return s.x509.Close() }

// ID is the current SPIFFE id of this process, empty once the source is closed.
func (s *Source) ID() string {
	svid, err := s.x509.GetX509SVID()
	if err != nil {
		return ""
	}
	return svid.ID.String()
}

// Expiry is when the current SVID of this process ends, the zero Time once the source is closed.
func (s *Source) Expiry() time.Time {
	svid, err := s.x509.GetX509SVID()
	if err != nil {
		return time.Time{}
	}
	return svid.Certificates[0].NotAfter
}

// Token makes a token for the audience, a SPIFFE id, signed with the current SVID. Where the token belongs to an RPC use
// Reply: after a rotation older connections still have the older certificate.
func (s *Source) Token(audience string) (Token, error) {
	svid, err := s.svid()
	if err != nil {
		return Token{}, err
	}
	return s.tokens.make(svid, audience, s.tokenLifetime)
}

// Reply makes a token for the caller of the RPC in ctx, to be put into the answer. It is signed with the SVID of that
// connection, which is what the caller checks it against.
func (s *Source) Reply(ctx context.Context) (Token, error) {
	conn, err := connectionOf(ctx)
	if err != nil {
		return Token{}, err
	}
	return s.tokenOn(conn)
}

// tokenOn makes a token for the peer of the connection.
func (s *Source) tokenOn(conn authInfo) (Token, error) {
	svid := conn.svid
	if svid == nil || !time.Now().Before(svid.Certificates[0].NotAfter) {
		// The connection outlived its certificate; a token of that would be expired at birth.
		var err error
		if svid, err = s.svid(); err != nil {
			return Token{}, err
		}
	}
	return s.tokens.make(svid, conn.SPIFFEID.String(), s.tokenLifetime)
}

func (s *Source) svid() (*x509svid.SVID, error) {
	svid, err := s.x509.GetX509SVID()
	if err != nil {
		return nil, fault.Wrap(fault.Unavailable, err)
	}
	if key, ok := svid.PrivateKey.Public().(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, fault.New(fault.Invalid, "SVID %s has a %T key: tokens need ECDSA P-256; set the key type to ec-p256 at its issuer", svid.ID, svid.PrivateKey.Public())
	}
	return svid, nil
}

// How a source comes back after its Workload API went away: soon at first, then every 5 s. The transport and the stream on
// it each have their own delay.
var reconnect = grpc.ConnectParams{
	Backoff:           grpcbackoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 5 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

type retry struct{}

func (retry) NewBackoff() workloadapi.Backoff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = reconnect.Backoff.BaseDelay, reconnect.Backoff.MaxDelay
	return steps{b}
}

type steps struct{ *backoff.ExponentialBackOff }

func (s steps) Next() time.Duration { return s.NextBackOff() }
