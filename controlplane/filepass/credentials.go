package filepass

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Credentials lets files pass below the connections that inner secures. On other transports than unix sockets it changes
// nothing.
func Credentials(inner credentials.TransportCredentials) credentials.TransportCredentials {
	return passing{inner}
}

type passing struct {
	credentials.TransportCredentials
}

func below(conn net.Conn) net.Conn {
	if c, ok := conn.(*net.UnixConn); ok {
		return wrap(c)
	}
	return conn
}

func (p passing) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return handshake(conn, func(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
		return p.TransportCredentials.ClientHandshake(ctx, authority, conn)
	})
}

func (p passing) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return handshake(conn, p.TransportCredentials.ServerHandshake)
}

// handshake closes the connection when it fails: files may have come along already, of which only it knows.
func handshake(conn net.Conn, with func(net.Conn) (net.Conn, credentials.AuthInfo, error)) (net.Conn, credentials.AuthInfo, error) {
	lower := below(conn)
	upper, info, err := with(lower)
	if err != nil {
		_ = lower.Close()
		return nil, nil, err
	}
	return upper, info, nil
}

func (p passing) Clone() credentials.TransportCredentials {
	return passing{p.TransportCredentials.Clone()}
}

// FromPeer is the connection that an RPC came on, or went out on. There is none on transports that carry no files.
func FromPeer(p *peer.Peer) (*Conn, bool) {
	if p == nil {
		return nil, false
	}
	a, ok := p.Addr.(addr)
	return a.conn, ok
}
