package hop

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"highwire/controlplane/filepass"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Files are the open files that arrive on one transport connection (§2.3). A nil Files is a transport that carries none.
type Files interface {
	// Receive waits until the file has arrived; it may come before or after the message that names it. The file may be
	// opened with O_PATH; the caller closes it. When ctx ends first the error is fault.Timeout or fault.Canceled.
	Receive(ctx context.Context, inode mechanisms.Inode) (*os.File, error)
}

// FilesOf returns the files of the connection that an incoming RPC came on, nil when it is not a unix socket.
func FilesOf(ctx context.Context) Files {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	return filesOfPeer(p)
}

func filesOfPeer(p *peer.Peer) Files {
	if c, ok := filepass.FromPeer(p); ok {
		return c
	}
	return nil
}

// OpenFile opens path only to name and send it (O_PATH), whatever its kind.
func OpenFile(path string) (*os.File, mechanisms.Inode, error) {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, mechanisms.Inode{}, fault.Wrap(fault.Invalid, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, mechanisms.Inode{}, fmt.Errorf("%s: %w", path, err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return file, mechanisms.Inode{Dev: stat.Dev, Ino: stat.Ino}, nil
}

// SendFile sends file along with the answer to the RPC of ctx. On transports that carry no files it does nothing.
func SendFile(ctx context.Context, file *os.File) {
	if p, ok := peer.FromContext(ctx); ok {
		sendTo(p, file)
	}
}

// WithFile makes a call of a client send files with the request, as SendFile does with an answer.
func WithFile(files ...*os.File) grpc.CallOption { return grpc.PerRPCCredentials(withFile{files}) }

// withFile is no credential: gRPC asks per-RPC credentials for metadata once the transport is known and before it writes,
// which is the one moment where a file can be put on the right connection.
type withFile struct{ files []*os.File }

func (w withFile) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	for _, file := range w.files {
		SendFile(ctx, file)
	}
	return nil, nil
}

func (withFile) RequireTransportSecurity() bool { return false }

// sendTo queues the file on the connection. A failure shows at the receiver, who waits for the file.
func sendTo(p *peer.Peer, file *os.File) {
	c, ok := filepass.FromPeer(p)
	if !ok {
		return
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = c.Send(fd) })
}
