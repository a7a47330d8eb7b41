package identity

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"highwire/controlplane/filepass"
	"highwire/vppapi/fault"
)

// ServerCredentials are for grpc.Creds: mutual TLS that admits any identity of a known trust domain. Handlers reach files
// that the peer passes along through filepass.FromPeer.
func (s *Source) ServerCredentials() credentials.TransportCredentials {
	return filepass.Credentials(&transport{TransportCredentials: credentials.NewTLS(nil), source: s})
}

// ClientCredentials are the same for the dialling side.
func (s *Source) ClientCredentials() credentials.TransportCredentials {
	return s.ServerCredentials()
}

// PerRPC sends a fresh token for the TLS peer with every RPC. A connection keeps the certificate it was made with, and the
// peer checks tokens against that one: dial again for a new Request, as refreshes do, rather than keep a connection for
// longer than an SVID lives.
func (s *Source) PerRPC() credentials.PerRPCCredentials { return perRPC{s} }

// DialOptions are all that grpc.NewClient needs to talk to another member of the mesh.
func (s *Source) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(s.ClientCredentials()),
		grpc.WithPerRPCCredentials(s.PerRPC()),
	}
}

// authInfo is what is known of one transport connection: TLS with the peer's identity, and the SVID that we showed.
type authInfo struct {
	credentials.TLSInfo
	svid *x509svid.SVID
}

// transport makes each connection with the SVID of that moment and remembers it in the connection's authInfo.
type transport struct {
	credentials.TransportCredentials // Info and OverrideServerName
	source                           *Source
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	svid, err := t.source.svid()
	if err != nil {
		return nil, nil, err
	}
	config := tlsconfig.MTLSClientConfig(svid, t.source.x509, tlsconfig.AuthorizeAny())
	config.VerifyPeerCertificate, config.VerifyConnection = nil, t.source.checkPeer
	if local(conn) {
		config.CurvePreferences = []tls.CurveID{tls.CurveP256} // which every server has, RFC 8446 §9.1
	}
	conn, info, err := credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
	return withSVID(conn, info, svid, err)
}

func (t *transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	svid, err := t.source.svid()
	if err != nil {
		return nil, nil, err
	}
	config := tlsconfig.MTLSServerConfig(svid, t.source.x509, tlsconfig.AuthorizeAny())
	config.VerifyPeerCertificate, config.VerifyConnection = nil, t.source.checkPeer
	config.SessionTicketsDisabled = true // nobody resumes: every connection shows the certificates of its moment
	if local(conn) {
		config.CurvePreferences = []tls.CurveID{tls.CurveP256, tls.X25519}
	}
	conn, info, err := credentials.NewTLS(config).ServerHandshake(conn)
	return withSVID(conn, info, svid, err)
}

// local tells whether both ends are on this machine. What passes there cannot be recorded on a line and deciphered by
// quantum computers one day, so that the key exchange can do without ML-KEM, half of the cost of a handshake.
func local(conn net.Conn) bool { return conn.LocalAddr().Network() == "unix" }

func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{TransportCredentials: t.TransportCredentials.Clone(), source: t.source}
}

func withSVID(conn net.Conn, info credentials.AuthInfo, svid *x509svid.SVID, err error) (net.Conn, credentials.AuthInfo, error) {
	if err != nil {
		return nil, nil, err
	}
	return conn, authInfo{TLSInfo: info.(credentials.TLSInfo), svid: svid}, nil
}

type perRPC struct{ source *Source }

func (p perRPC) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	info, _ := credentials.RequestInfoFromContext(ctx)
	conn, ok := asAuthInfo(info.AuthInfo)
	if !ok {
		return nil, fault.New(fault.Denied, "%s: the server showed no SPIFFE identity, so there is nobody to make a token for", info.Method)
	}
	token, err := p.source.tokenOn(conn)
	if err != nil {
		return nil, err
	}
	return map[string]string{tokenKey: token.JWT, expiresKey: token.Expires.Format(time.RFC3339Nano)}, nil
}

func (perRPC) RequireTransportSecurity() bool { return true }
