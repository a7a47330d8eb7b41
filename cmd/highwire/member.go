package main

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"highwire/controlplane/identity"
)

// member holds the flags that a client and an endpoint share.
type member struct {
	name      string
	connectTo string
	spiffe    string
	netns     string
	lifetime  time.Duration
	logs      logFlags
}

func (m *member) add(flags *pflag.FlagSet, kind string) {
	flags.StringVar(&m.name, "name", kind+"-"+hostname(), "who we are in the mesh; one manager should not see a name twice at a time")
	alsoFrom(flags, "name", "NSM_NAME")
	flags.StringVar(&m.connectTo, "connect-to", defaultListen, "the agent: unix:///path or tcp://ip:port")
	alsoFrom(flags, "connect-to", "NSM_CONNECT_TO")
	flags.StringVar(&m.spiffe, "spiffe-socket", "unix://"+defaultWorkload, "SPIFFE Workload API to take the identity from")
	alsoFrom(flags, "spiffe-socket", "SPIFFE_ENDPOINT_SOCKET")
	flags.StringVar(&m.netns, "netns", "", "network namespace that gets the interfaces, by name (as in 'ip netns') or path (default: the own)")
	flags.DurationVar(&m.lifetime, "max-token-lifetime", identity.DefaultTokenLifetime, "how long a token is valid at most, and with it what it was used for")
	alsoFrom(flags, "max-token-lifetime", "NSM_MAX_TOKEN_LIFETIME")
	m.logs.add(flags)
}

// namespace is the path of --netns, empty for the own.
func (m *member) namespace() string {
	if m.netns == "" || strings.Contains(m.netns, "/") {
		return m.netns
	}
	return filepath.Join("/run/netns", m.netns)
}
