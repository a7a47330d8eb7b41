package server

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"highwire/vppapi/fault"
)

var codeOf = map[fault.Kind]codes.Code{
	fault.Internal: codes.Internal, fault.Invalid: codes.InvalidArgument, fault.NotFound: codes.NotFound,
	fault.Conflict: codes.AlreadyExists, fault.Denied: codes.PermissionDenied, fault.Exhausted: codes.ResourceExhausted,
	fault.Unavailable: codes.Unavailable, fault.Timeout: codes.DeadlineExceeded, fault.Canceled: codes.Canceled,
}

// UnaryErrors turns the errors of handlers into gRPC statuses: the code by kind, the text as it is.
func UnaryErrors(ctx context.Context, r any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, r)
	return answer, statusOf(info.FullMethod, err)
}

// StreamErrors is UnaryErrors for streams.
func StreamErrors(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return statusOf(info.FullMethod, handle(srv, stream))
}

func statusOf(method string, err error) error {
	var already interface{ GRPCStatus() *status.Status }
	if err == nil || errors.As(err, &already) {
		return err
	}
	kind := fault.KindOf(err)
	level := slog.LevelWarn
	if kind == fault.Canceled {
		level = slog.LevelDebug
	}
	slog.Log(context.Background(), level, "call failed", "method", method, "kind", kind, "error", err)
	return status.Error(codeOf[kind], err.Error())
}
