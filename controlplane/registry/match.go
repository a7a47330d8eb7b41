package registry

import (
	"maps"
	"slices"
	"strings"
	"text/template/parse"
	"time"

	"google.golang.org/protobuf/proto"

	registryapi "highwire/controlplane/api/registry"
	"highwire/vppapi/fault"
)

// serviceMatches tells whether a Find with the query returns s; an empty field of the query matches any (§3.8).
func serviceMatches(query, s *registryapi.NetworkService) bool {
	return (query.GetName() == "" || query.Name == s.Name) &&
		(query.GetPayload() == "" || query.Payload == s.Payload) &&
		(len(query.GetMatches()) == 0 || slices.EqualFunc(query.Matches, s.Matches, equalMatch))
}

func equalMatch(a, b *registryapi.Match) bool { return proto.Equal(a, b) }

// endpointMatches is serviceMatches for endpoints. The URL matches when it contains the query's.
func endpointMatches(query, e *registryapi.NetworkServiceEndpoint) bool {
	if query.GetName() != "" && query.Name != e.Name || !strings.Contains(e.Url, query.GetUrl()) {
		return false
	}
	if t := query.GetExpirationTime(); t != nil && t.Seconds != e.GetExpirationTime().GetSeconds() {
		return false
	}
	for _, name := range query.GetNetworkServiceNames() {
		if !slices.Contains(e.NetworkServiceNames, name) {
			return false
		}
	}
	for service, want := range query.GetNetworkServiceLabels() {
		if !contains(e.NetworkServiceLabels[service].GetLabels(), want.GetLabels()) {
			return false
		}
	}
	return true
}

// contains tells whether all of want is in labels.
func contains(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Candidate is an endpoint that a client may get, and why.
type Candidate struct {
	*registryapi.NetworkServiceEndpoint
	// Route says which match and which route of it chose the endpoint, and Weight what that route says (Destination.weight); both
	// are zero where all endpoints of the service are candidates.
	Route  Route
	Weight uint32
}

// Route is the place of a route in its network service: matches[Match].routes[Index].
type Route struct{ Match, Index int }

// candidates are those of the endpoints that offer ns to a client with the labels, in their order and per match in the
// order of its routes (§3.7).
func candidates(ns *registryapi.NetworkService, endpoints []*registryapi.NetworkServiceEndpoint, labels map[string]string, now time.Time) ([]Candidate, error) {
	var offering []Candidate
	for _, e := range endpoints {
		if slices.Contains(e.NetworkServiceNames, ns.Name) && (e.ExpirationTime == nil || e.ExpirationTime.AsTime().After(now)) {
			offering = append(offering, Candidate{NetworkServiceEndpoint: e})
		}
	}
	if len(ns.Matches) == 0 {
		return offering, nil
	}
	for i, m := range ns.Matches {
		source, err := render(m.SourceSelector, labels)
		if err != nil {
			return nil, err
		}
		if !contains(labels, source) {
			continue
		}
		chosen, err := routed(ns, i, offering, labels)
		switch {
		case err != nil:
			return nil, err
		case len(chosen) == 0 && m.Fallthrough:
			continue
		case len(m.Routes) == 0 && m.Metadata != nil:
			return offering, nil
		}
		return chosen, nil
	}
	return nil, nil
}

// fits tells whether ns offers the endpoint, if there were no other.
func fits(ns *registryapi.NetworkService, e *registryapi.NetworkServiceEndpoint, labels map[string]string) bool {
	list, err := candidates(ns, []*registryapi.NetworkServiceEndpoint{e}, labels, time.Now())
	return err == nil && len(list) == 1
}

// ForwarderLabels are the labels that a forwarder needs to carry a connection of the client to ns (§3.8): none where ns has no
// matches, else what the first that applies says in its metadata, p2p=true if that says nothing.
func ForwarderLabels(ns *registryapi.NetworkService, client map[string]string) (map[string]string, error) {
	for _, m := range ns.GetMatches() {
		source, err := render(m.SourceSelector, client)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "network service %s: %w", ns.Name, err)
		}
		if !contains(client, source) {
			continue
		}
		if m.Metadata != nil {
			return m.Metadata.Labels, nil
		}
		return map[string]string{"p2p": "true"}, nil
	}
	return nil, nil
}

// routed are those that the routes of a match lead to, each by the first that does.
func routed(ns *registryapi.NetworkService, match int, offering []Candidate, labels map[string]string) ([]Candidate, error) {
	var chosen []Candidate
	for i, route := range ns.Matches[match].Routes {
		destination, err := render(route.DestinationSelector, labels)
		if err != nil {
			return nil, err
		}
		for _, c := range offering {
			if contains(c.NetworkServiceLabels[ns.Name].GetLabels(), destination) &&
				!slices.ContainsFunc(chosen, func(o Candidate) bool { return o.Name == c.Name }) {
				c.Route, c.Weight = Route{match, i}, route.Weight
				chosen = append(chosen, c)
			}
		}
	}
	return chosen, nil
}

// render fills a selector's values in from the client's labels.
func render(selector, labels map[string]string) (map[string]string, error) {
	rendered := maps.Clone(selector)
	for k, v := range selector {
		text, err := renderValue(v, labels)
		if err != nil {
			return nil, fault.New(fault.Invalid, "selector %s=%q: %w", k, v, err)
		}
		rendered[k] = text
	}
	return rendered, nil
}

// renderValue evaluates the part of Go's text/template that selectors need: text and {{.label}}. A label that the client
// does not have renders as "<no value>", as there. The whole language is not for strangers: a loop or a wide printf of
// theirs would run in our process.
func renderValue(value string, labels map[string]string) (string, error) {
	if !strings.Contains(value, "{{") {
		return value, nil
	}
	tree := parse.New("selector")
	tree.Mode = parse.SkipFuncCheck
	if _, err := tree.Parse(value, "", "", map[string]*parse.Tree{}); err != nil {
		return "", fault.Wrap(fault.Invalid, err)
	}
	var b strings.Builder
	for _, node := range tree.Root.Nodes {
		if text, ok := node.(*parse.TextNode); ok {
			b.Write(text.Text)
			continue
		}
		label, ok := labelOf(node)
		if !ok {
			return "", fault.New(fault.Invalid, "template %s: only {{.label}} is understood", node)
		}
		if v, ok := labels[label]; ok {
			b.WriteString(v)
		} else {
			b.WriteString("<no value>")
		}
	}
	return b.String(), nil
}

// labelOf is the label that {{.label}} names.
func labelOf(node parse.Node) (string, bool) {
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) != 0 || len(action.Pipe.Cmds) != 1 || len(action.Pipe.Cmds[0].Args) != 1 {
		return "", false
	}
	field, ok := action.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
	if !ok || len(field.Ident) != 1 {
		return "", false
	}
	return field.Ident[0], true
}
