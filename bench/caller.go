package bench

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/hop"
	"highwire/controlplane/identity"
	"highwire/mechanisms"
)

// caller is a client of a mesh, with an identity of its own and one vWire. Like the clients of NSM it has a new transport connection, with its TLS handshake,
// for each call, and sends its namespace along.
type caller struct {
	mesh       *mesh
	source     *identity.Source
	namespace  *os.File
	preference *connection.Mechanism
	// conn is as wanted, or as last answered.
	conn *connection.Connection
}

// caller makes the client with that number. The namespace stays the caller's of this function.
func (m *mesh) caller(ctx context.Context, number int, mechanism string, namespace *os.File) (*caller, error) {
	at, err := inodeOf(namespace)
	if err != nil {
		return nil, err
	}
	source, err := identity.NewSource(ctx, "unix://"+m.workload())
	if err != nil {
		return nil, err
	}
	m.later(source.Close)
	id := fmt.Sprintf("bench-%d", number)
	p := map[string]string{mechanisms.ParamInode: at.String()}
	if mechanism == mechanisms.Kernel {
		p[mechanisms.ParamName] = ifaceName
	}
	return &caller{
		mesh: m, source: source, namespace: namespace,
		preference: &connection.Mechanism{Cls: string(mechanisms.Local), Type: mechanism, Parameters: p},
		conn: &connection.Connection{
			Id: id, NetworkService: service, Path: &connection.Path{PathSegments: []*connection.PathSegment{{Name: id, Id: id}}},
			Context: &connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{}},
		},
	}, nil
}

// dial makes a transport connection that is used once.
func (c *caller) dial() (*grpc.ClientConn, error) {
	return hop.Dial(c.mesh.target(), c.source.DialOptions()...)
}

// request makes or refreshes the vWire and checks the answer's tokens.
func (c *caller) request(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.requestOn(ctx, conn)
}

func (c *caller) requestOn(ctx context.Context, conn *grpc.ClientConn) error {
	var from peer.Peer
	answer, err := networkservice.NewNetworkServiceClient(conn).Request(ctx, &networkservice.NetworkServiceRequest{
		Connection: c.conn, MechanismPreferences: []*connection.Mechanism{c.preference},
	}, grpc.Peer(&from), hop.WithFile(c.namespace), grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if err := hop.CheckAnswer(c.conn, answer, &from); err != nil {
		return err
	}
	c.conn = answer
	return nil
}

// peer is the address of the endpoint, and the MTU of the vWire, as last answered.
func (c *caller) peer() (netip.Addr, uint32, error) {
	list := c.conn.GetContext().GetIpContext().GetDstIpAddrs()
	if len(list) == 0 {
		return netip.Addr{}, 0, fmt.Errorf("connection %s has no addresses", c.conn.GetId())
	}
	p, err := netip.ParsePrefix(list[0])
	return p.Addr(), c.conn.GetContext().GetMTU(), err
}

// close ends the vWire.
func (c *caller) close(ctx context.Context) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = networkservice.NewNetworkServiceClient(conn).Close(ctx, c.conn, hop.WithFile(c.namespace), grpc.WaitForReady(true))
	return err
}
