package client

import (
	"net/url"
	"strings"

	"highwire/controlplane/hop"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// Service is a network service that a client wants, and how.
type Service struct {
	// Mechanism is the type on the wire: KERNEL or MEMIF.
	Mechanism string
	// Name of the network service; with a domain it is name@domain.
	Name string
	// Interface is the name wanted for the interface, empty to leave it to the server. A memif has no interface in the
	// namespace; its name tells connections of one namespace apart.
	Interface string
	// TokenID asks for a virtual function as the interface, see TakeTokens; empty for none.
	TokenID string
	// Labels go with the request; endpoints are chosen by them.
	Labels map[string]string
}

// ParseService reads NSM's URL of a service (§3.7): <mechanism>://[<service>@]<host>[/<interface>][?label=value&…]. With a
// user part the service is <service>@<host>, without it is <host>. Errors are fault.Invalid.
func ParseService(s string) (Service, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Service{}, fault.New(fault.Invalid, "network service URL: %w", err)
	}
	invalid := func(why string) (Service, error) {
		return Service{}, fault.New(fault.Invalid, "network service URL %.200q: %s; want kernel://service/interface?label=value, or memif://", s, why)
	}
	out := Service{Mechanism: strings.ToUpper(u.Scheme), Name: u.Host, Labels: map[string]string{}}
	switch _, password := u.User.Password(); {
	case out.Mechanism != mechanisms.Kernel && out.Mechanism != mechanisms.Memif:
		return invalid("the mechanism is neither kernel nor memif")
	case u.Host == "":
		return invalid("there is no service")
	case password || u.Fragment != "" || u.Opaque != "":
		return invalid("there is more in it than mechanism, service, interface and labels")
	}
	if u.User != nil {
		if u.User.Username() == "" {
			return invalid("there is no service before the @")
		}
		out.Name = u.User.Username() + "@" + u.Host
	}
	if path := strings.TrimPrefix(u.Path, "/"); path != "" {
		out.Interface = path[strings.LastIndex(path, "/")+1:]
		if err := hop.CheckInterfaceName(out.Interface); err != nil {
			return Service{}, fault.New(fault.Invalid, "network service URL %.200q: %w", s, err)
		}
	}
	labels, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return invalid("its labels cannot be read: " + err.Error())
	}
	for k, v := range labels {
		if len(v) != 1 {
			return invalid("label " + k + " is there more than once")
		}
		out.Labels[k] = v[0]
	}
	return out, nil
}

// ParseServices reads a comma separated list of them.
func ParseServices(s string) ([]Service, error) {
	var list []Service
	for _, part := range strings.Split(s, ",") {
		service, err := ParseService(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		list = append(list, service)
	}
	return list, nil
}
