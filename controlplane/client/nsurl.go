package client

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

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

// SyntaxError is a list of URLs that cannot be read, and where in it. It is of kind fault.Invalid.
type SyntaxError struct {
	// Text is the whole list.
	Text string
	// Offset is where the fault begins, in bytes.
	Offset int
	// Why says what is wrong there, and what would be right.
	Why string
}

// Character is where the fault begins for people: the first character is 1.
func (e *SyntaxError) Character() int { return utf8.RuneCountInString(e.Text[:e.Offset]) + 1 }

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("network service URL %.200q, character %d: %s", e.Text, e.Character(), e.Why)
}

// ParseService reads one URL of a network service, see ParseServices.
func ParseService(s string) (Service, error) {
	p := parser{text: s}
	start, end := p.trim(0, len(s))
	return p.service(start, end)
}

// ParseServices reads NSM's comma separated list of URLs of network services (§3.7), with blanks around the commas:
//
//	<mechanism>://[<service>@]<host>[/<interface>][?label=value&…]
//
// With a user part the service is <service>@<host>, without it is <host>. In labels %XX stands for a byte, such as %2C for a
// comma. An interface name may be there once. Errors are a *SyntaxError in a fault.Invalid.
func ParseServices(s string) ([]Service, error) {
	p := parser{text: s}
	var list []Service
	seen := map[string]bool{}
	for from := 0; ; {
		to := p.find(from, len(s), ",")
		start, end := p.trim(from, to)
		service, err := p.service(start, end)
		if err != nil {
			return nil, err
		}
		if name := service.Interface; name != "" {
			if seen[name] {
				at := strings.LastIndex(s[start:p.find(start, end, "?")], name)
				return nil, p.fault(start+at, "interface %q is there twice", name)
			}
			seen[name] = true
		}
		list = append(list, service)
		if to == len(s) {
			return list, nil
		}
		from = to + 1
	}
}

// parser reads a text; every position is one in the whole of it.
type parser struct{ text string }

func (p parser) fault(at int, format string, args ...any) error {
	return fault.Wrap(fault.Invalid, &SyntaxError{Text: p.text, Offset: at, Why: fmt.Sprintf(format, args...)})
}

// find is where the first of the characters is between two positions, or the second of these.
func (p parser) find(from, to int, chars string) int {
	if i := strings.IndexAny(p.text[from:to], chars); i >= 0 {
		return from + i
	}
	return to
}

// trim leaves out blanks at both ends.
func (p parser) trim(from, to int) (start, end int) {
	s := strings.TrimLeftFunc(p.text[from:to], unicode.IsSpace)
	start = to - len(s)
	return start, start + len(strings.TrimRightFunc(s, unicode.IsSpace))
}

// service reads the URL between two positions.
func (p parser) service(start, end int) (Service, error) {
	out := Service{Labels: map[string]string{}}
	if start == end {
		return out, p.fault(start, "there is no network service; want kernel://service/interface?label=value, or memif://")
	}
	scheme := p.find(start, end, ":/?#@")
	if out.Mechanism = strings.ToUpper(p.text[start:scheme]); out.Mechanism != mechanisms.Kernel && out.Mechanism != mechanisms.Memif {
		return out, p.fault(start, "the mechanism is neither kernel nor memif; want kernel://service/interface?label=value, or memif://")
	}
	rest, ok := strings.CutPrefix(p.text[scheme:end], "://")
	if !ok {
		return out, p.fault(scheme, "there is no service: want :// after the mechanism")
	}
	host := end - len(rest)
	path := p.find(host, end, "/?#")
	query := p.find(path, end, "?#")
	if i := p.find(query, end, "#"); i < end {
		return out, p.fault(i, "there is more in it than mechanism, service, interface and labels")
	}
	if err := p.name(host, path); err != nil {
		return out, err
	}
	out.Name = p.text[host:path]
	if name := p.text[path:query]; strings.TrimPrefix(name, "/") != "" {
		out.Interface = name[strings.LastIndex(name, "/")+1:]
		if err := hop.CheckInterfaceName(out.Interface); err != nil {
			return out, p.fault(query-len(out.Interface), "%v", err)
		}
	}
	return out, p.labels(min(query+1, end), end, out.Labels)
}

// name checks the service, or service@domain, between two positions.
func (p parser) name(from, to int) error {
	service, domain := p.find(from, to, "@"), to
	if service == from {
		if from == to {
			return p.fault(from, "there is no service")
		}
		return p.fault(from, "there is no service before the @")
	}
	for i, r := range p.text[from:to] {
		switch at := from + i; {
		case r == '@' && at != service || r == ':' && at < service && service < domain:
			return p.fault(at, "there is more in it than service and domain")
		case r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(`"<>\^`+"`"+`{|}%`, r):
			return p.fault(at, "%q is invalid in the name of a service", r)
		}
	}
	if service == to-1 {
		return p.fault(to, "there is no domain after the @")
	}
	return nil
}

// labels reads the query between two positions.
func (p parser) labels(from, to int, labels map[string]string) error {
	for at := from; at < to; {
		end := p.find(at, to, "&")
		equals := p.find(at, end, "=")
		value := min(equals+1, end)
		key, err := p.unescape(at, equals)
		if err != nil {
			return err
		}
		text, err := p.unescape(value, end)
		if err != nil {
			return err
		}
		switch _, twice := labels[key]; {
		case key == "":
			return p.fault(at, "one of its labels has no name: want label=value")
		case twice:
			return p.fault(at, "label %s is there more than once", key)
		case key == tokenLabel && !tokenName(text):
			return p.fault(value, "label %s=%.80q: want SERVICEDOMAIN/CAPABILITY", tokenLabel, text)
		}
		labels[key] = text
		at = end + 1
	}
	return nil
}

// unescape replaces %XX and + between two positions.
func (p parser) unescape(from, to int) (string, error) {
	s, err := url.QueryUnescape(p.text[from:to])
	if err != nil {
		for at := from; ; at++ {
			at = p.find(at, to, "%")
			if _, err := url.QueryUnescape(p.text[at:min(at+3, to)]); err != nil {
				return "", p.fault(at, "its labels cannot be read: %v", err)
			}
		}
	}
	if i := strings.IndexFunc(p.text[from:to], func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == utf8.RuneError }); i >= 0 {
		return "", p.fault(from+i, "its labels cannot be read: a blank in them is written %%20")
	}
	return s, nil
}
