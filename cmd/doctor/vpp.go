package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"highwire/vppapi"
	"highwire/vppapi/fault"
	"highwire/vppapi/process"
)

// VPPBinary looks for an executable that an agent could launch; bin is empty for the one on PATH.
func VPPBinary(bin string) Check {
	return Check{"vpp executable", func(context.Context) Finding {
		path, err := process.Find(bin)
		if err != nil {
			return Finding{Verdict: Warn, Found: "none", Remedy: "install VPP " + vppapi.Release + " or name it by --vpp-bin; without one the agent runs on pocketvpp, which forwards real packets slowly"}
		}
		if process.Plugins(path) == "" {
			return Finding{Verdict: Warn, Found: path + ", without plugins beside it", Remedy: "name their directory by --vpp-plugin-path"}
		}
		return ok("%s", path)
	}}
}

// VPPSocket asks the VPP that serves an API socket for its version and messages.
func VPPSocket(socket string) Check {
	return Check{"vpp", func(ctx context.Context) Finding {
		c, err := vppapi.Dial(ctx, socket)
		switch {
		case fault.Is(err, fault.Unavailable):
			return Finding{Verdict: Unknown, Found: "none answers at " + socket}
		case fault.Is(err, fault.Denied):
			return Finding{Verdict: Fail, Found: err.Error(), Remedy: "run as root, or in VPP's group"}
		case err != nil:
			return Finding{Verdict: Fail, Found: err.Error(), Remedy: "run VPP " + vppapi.Release + ": messages of other releases have other CRCs"}
		}
		defer c.Close()
		return ok("%s: it knows all messages that are needed", c.Version())
	}}
}

// Socket looks whether somebody listens on a unix socket.
func Socket(name, path, absent string) Check {
	return Check{name, func(ctx context.Context) Finding {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			_ = conn.Close()
			return ok("%s answers", path)
		case errors.Is(err, os.ErrNotExist):
			return Finding{Verdict: Unknown, Found: path + " is not there", Remedy: absent}
		case errors.Is(err, os.ErrPermission):
			return Finding{Verdict: Fail, Found: "no permission for " + path, Remedy: "run as root or in the group of the socket"}
		}
		return Finding{Verdict: Fail, Found: fmt.Sprintf("%s is there and nobody answers", path), Remedy: "a process has died there: " + absent}
	}}
}
