package endpoint

import (
	"bytes"
	"encoding/json"

	"sigs.k8s.io/yaml"

	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/hop"
	"highwire/vppapi/fault"
)

// policy is a policy route as NSM's configuration files have it: numbers may be texts, and keys have any case.
type policy struct {
	From    string
	Proto   text
	DstPort text
	SrcPort text
	Routes  []struct{ Prefix, NextHop string }
}

// text takes a number, too.
type text string

// UnmarshalJSON reads either.
func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, (*string)(t))
	}
	var n json.Number
	err := json.Unmarshal(b, &n)
	*t = text(n)
	return err
}

// ParsePolicies reads policy routes from YAML: a list of from, proto, dstport, srcport and routes with prefix and nexthop. What is left
// out matches everything; without routes, all that matches goes to the other end of the connection. Errors are fault.Invalid.
func ParsePolicies(data []byte) ([]*connectioncontext.PolicyRoute, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "policy routes: %w", err)
	}
	var list []policy
	strict := json.NewDecoder(bytes.NewReader(asJSON))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&list); err != nil {
		return nil, fault.New(fault.Invalid, "policy routes: %w", err)
	}
	var policies []*connectioncontext.PolicyRoute
	for _, p := range list {
		route := &connectioncontext.PolicyRoute{From: p.From, Proto: string(p.Proto), DstPort: string(p.DstPort), SrcPort: string(p.SrcPort)}
		for _, r := range p.Routes {
			route.Routes = append(route.Routes, &connectioncontext.Route{Prefix: r.Prefix, NextHop: r.NextHop})
		}
		policies = append(policies, route)
	}
	_, err = hop.ParseContext(&connectioncontext.ConnectionContext{IpContext: &connectioncontext.IPContext{Policies: policies}})
	return policies, err
}
