package main

import (
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/endpoint"
)

// addressFlags say what an endpoint gives its clients: addresses, routes and nameservers.
type addressFlags struct {
	cidrs, excluded, routes []string
	leases, policies        string
	nameservers, domains    []string
}

func (a *addressFlags) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&a.cidrs, "cidr", []string{"169.254.0.0/16"}, "prefix to hand out addresses from, repeatable, e.g. one of each family; [A,B] hands out from B when A is full")
	alsoFrom(flags, "cidr", "NSM_CIDR_PREFIX")
	flags.StringSliceVar(&a.excluded, "exclude", nil, "prefix that nobody gets addresses from, repeatable")
	flags.StringVar(&a.leases, "leases", "", "file that keeps who had which addresses, so that clients get them again after a restart")
	flags.StringSliceVar(&a.routes, "route", nil, "prefix that clients reach through the vWire, repeatable")
	flags.StringVar(&a.policies, "policy-routes", "", "YAML file of routes for some packets of clients: a list of from, proto, dstport, srcport, routes")
	flags.StringSliceVar(&a.nameservers, "dns-server", nil, "nameserver of the service that clients are to ask, repeatable; they get a route to it")
	flags.StringSliceVar(&a.domains, "dns-domain", nil, "domain that --dns-server answers for, which clients also search, repeatable (default: all names)")
}

// apply checks the flags and puts them where they belong.
func (a *addressFlags) apply(cfg *endpoint.Config) error {
	var err error
	if cfg.Pools, err = endpoint.ParsePools(strings.Join(a.cidrs, ",")); err != nil {
		return usagef("--cidr: %w", err)
	}
	for flag, list := range map[string][]string{"exclude": a.excluded, "route": a.routes} {
		for _, s := range list {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return usagef("--%s: %w", flag, err)
			}
			if flag == "route" {
				cfg.Routes = append(cfg.Routes, p)
			} else {
				cfg.Excluded = append(cfg.Excluded, p)
			}
		}
	}
	cfg.Leases = a.leases
	if a.policies != "" {
		data, err := os.ReadFile(a.policies)
		if err != nil {
			return err
		}
		if cfg.Policies, err = endpoint.ParsePolicies(data); err != nil {
			return usagef("--policy-routes %s: %w", a.policies, err)
		}
	}
	if len(a.nameservers)+len(a.domains) > 0 {
		cfg.DNS = []*connectioncontext.DNSConfig{{DnsServerIps: a.nameservers, SearchDomains: a.domains}}
		if err := endpoint.CheckDNS(cfg.DNS); err != nil {
			return usageError{err}
		}
	}
	return nil
}
