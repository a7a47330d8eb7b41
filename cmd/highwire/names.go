package main

import (
	"cmp"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"highwire/controlplane/names"
)

// nameFlags have a client answer DNS queries.
type nameFlags struct {
	on         bool
	resolvConf string
	allow      []string
}

func (n *nameFlags) add(flags *pflag.FlagSet) {
	flags.BoolVar(&n.on, "dns", false, "answer the DNS queries of --netns at 127.0.0.1: from its own nameservers and from those of the vWires")
	alsoFrom(flags, "dns", "NSM_LOCAL_DNS_SERVER_ENABLED")
	flags.StringVar(&n.resolvConf, "resolv-conf", "", "the resolv.conf that is to name us while we run (default /etc/resolv.conf, or /etc/netns/NAME/resolv.conf for --netns NAME)")
	flags.StringSliceVar(&n.allow, "dns-allow", nil, "domain that services may answer for, repeatable (default: all but the search domains of resolv.conf)")
}

// config is nil without --dns.
func (n *nameFlags) config(netns string) (*names.Config, error) {
	path := n.resolvConf
	switch {
	case !n.on && (path != "" || n.allow != nil):
		return nil, usagef("--resolv-conf and --dns-allow are for --dns")
	case !n.on:
		return nil, nil
	case path == "" && strings.Contains(netns, "/"):
		// Ours would lead all programs outside of the namespace to an address inside of it.
		return nil, usagef("--dns with a --netns by path: say with --resolv-conf which file programs there look up their nameservers in")
	case path == "" && netns != "":
		path = filepath.Join("/etc/netns", netns, "resolv.conf")
	}
	for _, d := range n.allow {
		if _, err := names.ParseDomain(d); err != nil {
			return nil, usagef("--dns-allow: %w", err)
		}
	}
	return &names.Config{ResolvConf: cmp.Or(path, "/etc/resolv.conf"), Allow: n.allow}, nil
}
