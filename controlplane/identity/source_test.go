package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edwarnicke/grpcfd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/filepass"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// One RPC over a unix socket: both know each other, the token of each holds against the other's certificate, and a file
// passes below TLS.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	server, client := source(t, "mesh.test", dir, "/server"), source(t, "mesh.test", dir, "/client")
	target := listenMTLS(t, server.ServerCredentials(), service{request: func(ctx context.Context, r *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
		caller, err := CallerOf(ctx)
		if err != nil {
			return nil, err
		}
		if err := CheckSigned(caller.Token.JWT, caller.Certificate); err != nil {
			return nil, err
		}
		reply, err := server.Reply(ctx)
		if err != nil {
			return nil, err
		}
		p, _ := peer.FromContext(ctx)
		conn, _ := filepass.FromPeer(p)
		inode, err := mechanisms.ParseInode(r.Connection.Id)
		if err != nil {
			return nil, err
		}
		file, err := conn.Receive(ctx, inode)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		return &connection.Connection{Id: caller.ID, NetworkService: string(text), Path: &connection.Path{PathSegments: []*connection.PathSegment{
			{Token: caller.Token.JWT}, {Token: reply.JWT},
		}}}, err
	}})

	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("below TLS"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, err := grpcfd.FilenameToURL(name)
	if err != nil {
		t.Fatal(err)
	}
	perRPC := grpcfd.PerRPCCredentials(nil)
	fds, _ := grpcfd.FromPerRPCCredentials(perRPC)
	sent := fds.SendFilename(name)
	// The other members of the mesh send files by grpcfd.
	theirs := grpcfd.TransportCredentials(&transport{TransportCredentials: credentials.NewTLS(nil), source: client})
	c, err := dial(t, target, grpc.WithTransportCredentials(theirs), grpc.WithPerRPCCredentials(client.PerRPC())).Request(timeout(t, 10*time.Second),
		&networkservice.NetworkServiceRequest{Connection: &connection.Connection{Id: url.String()}}, grpc.PerRPCCredentials(perRPC))
	if err != nil {
		t.Fatal(err)
	}
	for err := range sent {
		t.Errorf("send file: %v", err)
	}
	if c.Id != "spiffe://mesh.test/client" || client.ID() != c.Id {
		t.Errorf("the server saw %s, the client is %s", c.Id, client.ID())
	}
	if c.NetworkService != "below TLS" {
		t.Errorf("file: got %q", c.NetworkService)
	}
	tokens := []string{c.Path.PathSegments[0].Token, c.Path.PathSegments[1].Token}
	if err := CheckValid(tokens, time.Now()); err != nil {
		t.Error(err)
	}
	if err := CheckChained(tokens); err != nil {
		t.Error(err)
	}
	svid, err := server.svid()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckSigned(tokens[1], svid.Certificates[0]); err != nil {
		t.Error(err)
	}
	if got, _ := parse(tokens[1]); got.Audience[0] != client.ID() {
		t.Errorf("the server's token is for %v", got.Audience)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	server := source(t, "mesh.test", t.TempDir(), "/server")
	target := listenMTLS(t, server.ServerCredentials(), service{request: func(ctx context.Context, _ *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
		_, err := CallerOf(ctx)
		return &connection.Connection{}, err
	}})
	for name, opts := range map[string][]grpc.DialOption{
		"other trust domain":                 source(t, "other.test", t.TempDir(), "/client").DialOptions(),
		"same trust domain, other authority": source(t, "mesh.test", t.TempDir(), "/client").DialOptions(),
		"no TLS":                             {grpc.WithTransportCredentials(insecure.NewCredentials())},
	} {
		if _, err := dial(t, target, opts...).Request(timeout(t, 10*time.Second), &networkservice.NetworkServiceRequest{}); err == nil {
			t.Errorf("%s: was served", name)
		}
	}
	if _, err := CallerOf(context.Background()); !fault.Is(err, fault.Denied) {
		t.Errorf("no peer: %v", err)
	}
}

// A rotation leaves connections alone, and tokens on them keep to the certificate that the peer knows.
func TestRotation(t *testing.T) {
	dir, short := t.TempDir(), WithSVIDLifetime(6*time.Second)
	server, client := source(t, "mesh.test", dir, "/server", short), source(t, "mesh.test", dir, "/client", short)
	certificates := make(chan *x509.Certificate, 1)
	target := listenMTLS(t, server.ServerCredentials(), service{request: func(ctx context.Context, _ *networkservice.NetworkServiceRequest) (*connection.Connection, error) {
		caller, err := CallerOf(ctx)
		if err != nil {
			return nil, err
		}
		certificates <- caller.Certificate
		return &connection.Connection{}, CheckSigned(caller.Token.JWT, caller.Certificate)
	}})
	ctx := timeout(t, 20*time.Second)
	request := func(c networkservice.NetworkServiceClient) *x509.Certificate {
		t.Helper()
		if _, err := c.Request(ctx, &networkservice.NetworkServiceRequest{}); err != nil {
			t.Fatal(err)
		}
		return <-certificates
	}
	old := dial(t, target, client.DialOptions()...)
	before := request(old)
	for svid, err := client.svid(); svid.Certificates[0].Equal(before); svid, err = client.svid() {
		if err != nil {
			t.Fatal(err)
		}
		if err := client.x509.WaitUntilUpdated(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if !request(old).Equal(before) {
		t.Error("the connection was made again after the rotation")
	}
	if request(dial(t, target, client.DialOptions()...)).Equal(before) {
		t.Error("a new connection uses the old certificate")
	}
}

func TestSourceFollowsItsWorkloadAPI(t *testing.T) {
	dir, socket := t.TempDir(), filepath.Join(t.TempDir(), "api.sock")
	open := func() *CA {
		ca, err := NewCA("mesh.test", dir)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	stop := serve(t, open(), socket)
	s := connect(t, socket)
	before, _ := s.svid()
	stop()
	serve(t, open(), socket) // the same authority after a restart
	if err := s.x509.WaitUntilUpdated(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	after, err := s.svid()
	if err != nil || after.ID != before.ID || after.Certificates[0].Equal(before.Certificates[0]) {
		t.Errorf("after the restart: %v, %v; before %v", after, err, before)
	}
	roots, err := s.x509.GetX509BundleForTrustDomain(before.ID.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(roots.X509Authorities()[0])
	if _, err := before.Certificates[0].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("SVIDs from before the restart are void: %v", err)
	}
}

func TestNewSourceErrors(t *testing.T) {
	for name, c := range map[string]struct {
		addr string
		kind fault.Kind
	}{
		"nobody there": {"unix://" + filepath.Join(t.TempDir(), "none"), fault.Unavailable},
		"not a URL":    {"somewhere", fault.Invalid},
		"empty":        {"", fault.Invalid},
	} {
		if _, err := NewSource(timeout(t, 100*time.Millisecond), c.addr); !fault.Is(err, c.kind) {
			t.Errorf("%s: got %v (%v), want %v", name, err, fault.KindOf(err), c.kind)
		}
	}
	s := source(t, "mesh.test", t.TempDir(), "/x")
	_ = s.Close()
	if _, err := s.Token("spiffe://mesh.test/y"); !fault.Is(err, fault.Unavailable) || s.ID() != "" {
		t.Errorf("closed: %v, id %q", err, s.ID())
	}
}
