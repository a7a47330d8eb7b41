package identity

import (
	"context"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"highwire/vppapi/fault"
)

func TestSVID(t *testing.T) {
	ca, err := NewCA("mesh.test", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "api.sock")
	serve(t, ca, socket)
	s := connect(t, socket)
	want := "spiffe://mesh.test/uid/" + strconv.Itoa(os.Getuid()) + "/" + filepath.Base(os.Args[0])
	if s.ID() != want {
		t.Errorf("id %s, want %s", s.ID(), want)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	svid, err := s.svid()
	if err != nil {
		t.Fatal(err)
	}
	leaf := svid.Certificates[0]
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.URIs) != 1 || len(leaf.DNSNames) != 0 {
		t.Errorf("leaf: CA %v, key usage %b, URIs %v, DNS names %v", leaf.IsCA, leaf.KeyUsage, leaf.URIs, leaf.DNSNames)
	}
	if _, _, err := x509svid.Verify(svid.Certificates, s.x509); err != nil {
		t.Error(err)
	}
	bundles, err := workloadapi.FetchX509Bundles(timeout(t, 10*time.Second), workloadapi.WithAddr("unix://"+socket))
	if err != nil || bundles.Len() != 1 {
		t.Errorf("bundles: %v, %v", bundles, err)
	}
}

// Every call needs the header, and a client is told to give up without it.
func TestWorkloadHeader(t *testing.T) {
	ca, err := NewCA("mesh.test", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "api.sock")
	serve(t, ca, socket)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client, ctx := workload.NewSpiffeWorkloadAPIClient(conn), timeout(t, 10*time.Second)
	svids, err := client.FetchX509SVID(ctx, &workload.X509SVIDRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svids.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("FetchX509SVID: %v", err)
	}
	bundles, err := client.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundles.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("FetchX509Bundles: %v", err)
	}
}

func TestNewCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	first, err := NewCA("mesh.test", dir)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, caFile)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	again, err := NewCA("mesh.test", dir)
	if err != nil || !again.cert.Equal(first.cert) {
		t.Errorf("opened again: %v, %v", again, err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 || entries[0].Name() != "bundle.pem" || entries[1].Name() != caFile {
		t.Errorf("in the directory: %v", entries)
	}
	if _, err := NewCA("other.test", dir); !fault.Is(err, fault.Conflict) {
		t.Errorf("other trust domain: %v", err)
	}
	if _, err := NewCA("not a domain", dir); !fault.Is(err, fault.Invalid) {
		t.Errorf("bad trust domain: %v", err)
	}
	data, _ := os.ReadFile(file)
	for name, damaged := range map[string]string{"empty": "", "no key": strings.SplitAfter(string(data), "END CERTIFICATE-----")[0], "not PEM": "x"} {
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewCA("mesh.test", dir); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServeSocket(t *testing.T) {
	ca, err := NewCA("mesh.test", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// A dead socket is replaced.
	socket := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	stop := serve(t, ca, socket)
	connect(t, socket)
	// A live one is not.
	if err := ca.Serve(context.Background(), socket); !fault.Is(err, fault.Conflict) {
		t.Errorf("second server: %v", err)
	}
	stop()
	// Neither is a file.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ca.Serve(context.Background(), file); !fault.Is(err, fault.Unavailable) {
		t.Errorf("on a file: %v", err)
	}
	if data, _ := os.ReadFile(file); string(data) != "x" {
		t.Error("the file is gone")
	}
}
