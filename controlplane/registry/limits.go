package registry

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"

	registryapi "highwire/controlplane/api/registry"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Limits of what may be registered. Names and labels come from peers and are kept and shown.
const (
	maxName    = 253 // a DNS name
	maxLabel   = 256 // bytes of a key, and of a value
	maxLabels  = 64  // entries of one map
	maxList    = 64  // services of an endpoint, matches of a service, routes of a match
	maxURL     = 1024
	maxEntries = 16384 // services, and endpoints
)

// DefaultPerIdentity is how many endpoints, and how many network services, one SPIFFE id may register.
const DefaultPerIdentity = 1024

// room refuses with fault.Exhausted one more where the list is full, or where its owner, a SPIFFE id, has enough in it.
func room[T interface{ GetPathIds() []string }](what string, list []T, owner string, most int) error {
	if len(list) >= maxEntries {
		return fault.New(fault.Exhausted, "there are %d %s; the limit is %d", len(list), what, maxEntries)
	}
	own := 0
	for _, e := range list {
		if ids := e.GetPathIds(); len(ids) > 0 && ids[0] == owner {
			own++
		}
	}
	if own >= most {
		return fault.New(fault.Exhausted, "%s has registered %d %s, which is the limit of one identity", owner, own, what)
	}
	return nil
}

// checkService refuses with fault.Invalid what cannot be registered, and names the field.
func checkService(s *registryapi.NetworkService) error {
	if err := checkName("name of the network service", s.GetName()); err != nil {
		return err
	}
	switch mechanisms.Payload(s.Payload) {
	case "", mechanisms.Ethernet, mechanisms.IP:
	default:
		return fault.New(fault.Invalid, "network service %s: payload %.60q: want ETHERNET or IP", s.Name, s.Payload)
	}
	if n := len(s.Matches); n > maxList {
		return fault.New(fault.Invalid, "network service %s: %d matches; the limit is %d", s.Name, n, maxList)
	}
	for i, m := range s.Matches {
		if err := checkMatch(m); err != nil {
			return fmt.Errorf("network service %s: matches[%d]: %w", s.Name, i, err)
		}
	}
	return nil
}

func checkMatch(m *registryapi.Match) error {
	if err := checkSelector("source_selector", m.GetSourceSelector()); err != nil {
		return err
	}
	if n := len(m.GetRoutes()); n > maxList {
		return fault.New(fault.Invalid, "%d routes; the limit is %d", n, maxList)
	}
	for i, d := range m.GetRoutes() {
		if err := checkSelector(fmt.Sprintf("routes[%d].destination_selector", i), d.GetDestinationSelector()); err != nil {
			return err
		}
	}
	return checkLabels("metadata.labels", m.GetMetadata().GetLabels())
}

// checkSelector is checkLabels; values must be templates that can be rendered, too.
func checkSelector(field string, selector map[string]string) error {
	if err := checkLabels(field, selector); err != nil {
		return err
	}
	if _, err := render(selector, nil); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// checkEndpoint is checkService for endpoints.
func checkEndpoint(e *registryapi.NetworkServiceEndpoint) error {
	if err := checkName("name of the endpoint", e.GetName()); err != nil {
		return err
	}
	if n := len(e.NetworkServiceNames); n == 0 || n > maxList {
		return fault.New(fault.Invalid, "endpoint %s: %d network_service_names; want 1 to %d", e.Name, n, maxList)
	}
	for _, name := range e.NetworkServiceNames {
		if err := checkName("network_service_names", name); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.Name, err)
		}
	}
	if n := len(e.NetworkServiceLabels); n > maxList {
		return fault.New(fault.Invalid, "endpoint %s: network_service_labels of %d services; the limit is %d", e.Name, n, maxList)
	}
	for service, labels := range e.NetworkServiceLabels {
		if err := checkName("network_service_labels", service); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.Name, err)
		}
		if err := checkLabels("network_service_labels", labels.GetLabels()); err != nil {
			return fmt.Errorf("endpoint %s: %w", e.Name, err)
		}
	}
	if err := checkURL(e.Url); err != nil {
		return fmt.Errorf("endpoint %s: %w", e.Name, err)
	}
	return nil
}

func checkURL(url string) error {
	if len(url) > maxURL {
		return fault.New(fault.Invalid, "url has %d bytes; the limit is %d", len(url), maxURL)
	}
	if strings.HasPrefix(url, "inode://") {
		_, err := mechanisms.ParseInode(url)
		return err
	}
	_, err := hostPort(url)
	return err
}

// hostPort is what follows tcp:// in a URL.
func hostPort(url string) (string, error) {
	address, ok := strings.CutPrefix(url, "tcp://")
	host, port, err := net.SplitHostPort(address)
	if n, portErr := strconv.ParseUint(port, 10, 16); !ok || err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/?#@") {
		return "", fault.New(fault.Invalid, "url %.80q: want tcp://<host>:<port>, or inode://<dev>/<ino> with the socket sent along", url)
	}
	return address, nil
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return fault.New(fault.Invalid, "%s is empty", what)
	case len(name) > maxName:
		return fault.New(fault.Invalid, "%s %.60q… has %d bytes; the limit is %d", what, name, len(name), maxName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fault.New(fault.Invalid, "%s %q has control characters", what, name)
	}
	return nil
}

func checkLabels(field string, labels map[string]string) error {
	if n := len(labels); n > maxLabels {
		return fault.New(fault.Invalid, "%s: %d labels; the limit is %d", field, n, maxLabels)
	}
	for k, v := range labels {
		if len(k) > maxLabel || len(v) > maxLabel {
			return fault.New(fault.Invalid, "%s: label %.60q has a key of %d and a value of %d bytes; the limit is %d each", field, k, len(k), len(v), maxLabel)
		}
	}
	return nil
}
