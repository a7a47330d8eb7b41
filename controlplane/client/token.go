package client

import (
	"regexp"
	"strings"

	"highwire/vppapi/fault"
)

// The label of a URL that asks for a virtual function, "<service domain>/<capability>"; the label that endpoints are chosen by
// instead; and the variables in which a device plugin says which tokens of that name a process has (§2.2).
const (
	tokenLabel  = "sriovToken"
	domainLabel = "serviceDomain"
	tokenEnv    = "NSM_SRIOV_TOKENS_"
)

// tokenNameForm is SERVICEDOMAIN/CAPABILITY, which is also what Kubernetes takes for the name of a resource.
var tokenNameForm = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

func tokenName(s string) bool { return len(s) <= 253 && tokenNameForm.MatchString(s) }

// Token is the name of the token for a virtual function that a service asks for, SERVICEDOMAIN/CAPABILITY; empty for none.
// Pods have it as a resource of this name.
func (s Service) Token() string { return s.Labels[tokenLabel] }

// TakeTokens gives each service that has a label sriovToken a token of that name out of the environment (as os.Environ has
// it), each token once, and replaces the label by serviceDomain. fault.NotFound where there are not enough.
func TakeTokens(services []Service, environ []string) error {
	ids := map[string][]string{}
	for _, e := range environ {
		if pair, ok := strings.CutPrefix(e, tokenEnv); ok {
			name, list, _ := strings.Cut(pair, "=")
			ids[name] = strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
		}
	}
	for i := range services {
		s := &services[i]
		name := s.Labels[tokenLabel]
		if name == "" {
			continue
		}
		if len(ids[name]) == 0 {
			return fault.New(fault.NotFound, "service %s: no token left for %s=%s: the environment has to bring one in %s%s", s.Name, tokenLabel, name, tokenEnv, name)
		}
		domain, _, _ := strings.Cut(name, "/")
		s.TokenID, ids[name] = ids[name][0], ids[name][1:]
		delete(s.Labels, tokenLabel)
		s.Labels[domainLabel] = domain
	}
	return nil
}
