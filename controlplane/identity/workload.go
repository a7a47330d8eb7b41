package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"highwire/vppapi/fault"
)

// Process is one at the other end of a unix socket, as the kernel vouches for it (SO_PEERCRED).
type Process struct {
	UID uint32
	GID uint32
	PID int32
	// Exe is the base name of its executable, "unknown" where it cannot be seen.
	Exe string
}

// path names a process by user and executable, so that one that is started again, and replicas of one, keep what they
// own in the registry. Nothing needs distinct ids: a chain of tokens holds between equal ones too.
func (p Process) path() string { return fmt.Sprintf("/uid/%d/%s", p.UID, p.Exe) }

// Serve offers the SPIFFE Workload API on a unix socket that only its owner may use, until ctx ends. A socket left there
// by a dead process is replaced; a live one is fault.Conflict.
func (ca *CA) Serve(ctx context.Context, socketPath string) error {
	listener, err := listen(socketPath)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(peerCredentials{}), grpc.MaxConcurrentStreams(16))
	workload.RegisterSpiffeWorkloadAPIServer(server, &workloadAPI{ca: ca})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	slog.Info("development CA serves the Workload API", "socket", socketPath, "trust-domain", ca.domain.Name())
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fault.New(fault.Unavailable, "Workload API at %s: %w", socketPath, err)
	}
	return nil
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fault.New(fault.KindOf(err), "directory of the Workload API socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		if conn, dialErr := net.Dial("unix", path); dialErr == nil {
			_ = conn.Close()
			return nil, fault.New(fault.Conflict, "somebody else serves on %s", path)
		}
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode().Type() == os.ModeSocket {
			_ = os.Remove(path)
			listener, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "Workload API socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fault.New(fault.KindOf(err), "Workload API socket: %w", err)
	}
	return listener, nil
}

// workloadAPI is the part of the SPIFFE Workload API that X509-SVIDs need. It answers with gRPC codes of its own because
// they are part of that specification: InvalidArgument tells a client to give up.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	ca *CA
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	process, err := workloadOf(stream.Context())
	if err != nil {
		return err
	}
	id, err := spiffeid.FromPath(w.ca.domain, w.ca.id(process))
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "no SPIFFE id for process %d: %v", process.PID, err)
	}
	for {
		leaf, key, end, err := w.ca.issue(id)
		if err != nil {
			return status.Errorf(codes.Internal, "SVID of %s: %v", id, err)
		}
		slog.Debug("SVID issued", "id", id, "pid", process.PID, "until", end)
		response := &workload.X509SVIDResponse{
			Svids:            []*workload.X509SVID{{SpiffeId: id.String(), X509Svid: leaf, X509SvidKey: key, Bundle: w.ca.cert.Raw}},
			FederatedBundles: w.ca.others(),
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(time.Until(end) / 2):
		}
	}
}

func (w *workloadAPI) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	if _, err := workloadOf(stream.Context()); err != nil {
		return err
	}
	response := &workload.X509BundlesResponse{Bundles: w.ca.others()}
	response.Bundles[w.ca.domain.IDString()] = w.ca.cert.Raw
	if err := stream.Send(response); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// workloadOf says which process calls. The header is demanded so that nobody can be tricked into calling this API, e.g.
// by a request forged through a proxy.
func workloadOf(ctx context.Context) (Process, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if header := md.Get("workload.spiffe.io"); len(header) != 1 || header[0] != "true" {
		return Process{}, status.Error(codes.InvalidArgument, "metadata workload.spiffe.io: want true")
	}
	p, _ := peer.FromContext(ctx)
	if process, ok := p.AuthInfo.(processInfo); ok {
		return process.Process, nil
	}
	return Process{}, status.Error(codes.PermissionDenied, "the calling process is unknown")
}

// processInfo is a Process as the identity of a transport connection.
type processInfo struct {
	credentials.CommonAuthInfo
	Process
}

func (processInfo) AuthType() string { return "so_peercred" }

// peerCredentials are plain unix sockets that know the process at the other end.
type peerCredentials struct{}

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return nil, nil, err
	}
	return conn, processInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		Process:        Process{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid, Exe: executable(cred.Pid)},
	}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }
func (peerCredentials) OverrideServerName(string) error           { return nil }

// executable is the base name of the process's program in letters that a SPIFFE id may have.
func executable(pid int32) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSuffix(filepath.Base(path), " (deleted)") // replaced on disk while it runs
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, name)
	if strings.Trim(name, ".") == "" { // a segment of dots is not allowed
		return "unknown"
	}
	return name
}
