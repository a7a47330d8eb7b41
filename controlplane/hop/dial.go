package hop

import (
	"errors"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"highwire/vppapi/fault"
)

// maxAnswer bounds an answer, in bytes: a monitor begins with all connections in one, some 3 kB each.
const maxAnswer = 64 << 20

// Dial makes a client for the gRPC target. It connects with the first call, and again soon after a server was restarted.
func Dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append([]grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 20 * time.Second, // a machine under load takes its time for a handshake
		}),
		grpc.WithReadBufferSize(0), // most connections carry one call
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	}, options...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "gRPC target %s: %w", target, err)
	}
	return conn, nil
}

// Target turns an NSM address into a gRPC target (§3.10): unix:///path as it is, tcp://host:port as host:port. Anything else
// is fault.Invalid.
func Target(address string) (string, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return address, nil
	}
	if host, ok := strings.CutPrefix(address, "tcp://"); ok {
		if _, _, err := net.SplitHostPort(host); err == nil {
			return host, nil
		}
	}
	return "", fault.New(fault.Invalid, "address %q: want unix:///path or tcp://host:port", address)
}

var kinds = map[codes.Code]fault.Kind{
	codes.InvalidArgument: fault.Invalid, codes.NotFound: fault.NotFound, codes.AlreadyExists: fault.Conflict,
	codes.PermissionDenied: fault.Denied, codes.Unauthenticated: fault.Denied, codes.ResourceExhausted: fault.Exhausted,
	codes.Unavailable: fault.Unavailable, codes.DeadlineExceeded: fault.Timeout, codes.Canceled: fault.Canceled,
	codes.FailedPrecondition: fault.Invalid, codes.OutOfRange: fault.Invalid, codes.Aborted: fault.Unavailable,
}

// FromStatus turns the error of a gRPC call into one with a kind; controlplane/server does the opposite.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	return fault.Wrap(kinds[s.Code()], errors.New(s.Message()))
}
