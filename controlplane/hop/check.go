package hop

import (
	"fmt"
	"strings"
	"unicode"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/networkservice"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// More limits of one request; see those beside Context.
const (
	maxSegments    = 32
	maxPreferences = 32
	maxText        = 1024      // a name, an id
	maxMap         = 64        // entries of a map
	maxMapBytes    = 16 * 1024 // keys and values of a map together
	maxToken       = 16 * 1024
	maxInterface   = 15 // IFNAMSIZ without the closing NUL
	maxSocketName  = 107
)

// CheckRequest refuses a Request that can never succeed as it is, before anything has been done for it. Errors are
// fault.Invalid and name the field.
func CheckRequest(r *networkservice.NetworkServiceRequest) error {
	if err := CheckConnection(r.GetConnection()); err != nil {
		return err
	}
	if n := len(r.MechanismPreferences); n > maxPreferences {
		return fault.New(fault.Invalid, "mechanism_preferences: %d entries; the limit is %d", n, maxPreferences)
	}
	for i, m := range r.MechanismPreferences {
		if err := checkMechanism(fmt.Sprintf("mechanism_preferences[%d]", i), m); err != nil {
			return err
		}
	}
	return nil
}

// CheckConnection is CheckRequest for a connection alone, as a next hop answers it.
func CheckConnection(c *connection.Connection) error {
	if err := CheckPath(c); err != nil {
		return err
	}
	if c.NetworkService == "" {
		return fault.New(fault.Invalid, "connection.network_service is empty")
	}
	for field, s := range map[string]string{
		"connection.network_service":               c.NetworkService,
		"connection.network_service_endpoint_name": c.NetworkServiceEndpointName,
	} {
		if err := checkText(field, s); err != nil {
			return err
		}
	}
	switch mechanisms.Payload(c.Payload) {
	case "", mechanisms.Ethernet, mechanisms.IP:
	default:
		return fault.New(fault.Invalid, "connection.payload %.60q: want ETHERNET or IP", c.Payload)
	}
	if err := checkMap("connection.labels", c.Labels); err != nil {
		return err
	}
	if err := checkMap("connection.context.extra_context", c.Context.GetExtraContext()); err != nil {
		return err
	}
	if !Chosen(c) {
		c.Mechanism = nil
	} else if err := checkMechanism("connection.mechanism", c.Mechanism); err != nil {
		return err
	}
	_, err := ParseContext(c.Context)
	return err
}

// Chosen tells whether a mechanism stands in c; an empty one means the same as none.
func Chosen(c *connection.Connection) bool {
	return c.GetMechanism().GetType() != "" || len(c.GetMechanism().GetParameters()) > 0
}

// CheckPath checks what a Close needs: the id and the path.
func CheckPath(c *connection.Connection) error {
	switch {
	case c == nil:
		return fault.New(fault.Invalid, "connection is missing")
	case c.Id == "":
		return fault.New(fault.Invalid, "connection.id is empty")
	case c.Path == nil || len(c.Path.PathSegments) == 0:
		return fault.New(fault.Invalid, "connection.path has no segments; the caller's own must be there")
	case len(c.Path.PathSegments) > maxSegments:
		return fault.New(fault.Invalid, "connection.path has %d segments; the limit is %d", len(c.Path.PathSegments), maxSegments)
	}
	if err := checkText("connection.id", c.Id); err != nil {
		return err
	}
	for i, s := range c.Path.PathSegments {
		if err := checkSegment(fmt.Sprintf("connection.path.path_segments[%d]", i), s); err != nil {
			return err
		}
	}
	return nil
}

func checkSegment(field string, s *connection.PathSegment) error {
	switch {
	case s == nil || s.Id == "":
		return fault.New(fault.Invalid, "%s.id is empty", field)
	case len(s.Token) > maxToken:
		return fault.New(fault.Invalid, "%s.token has %d bytes; the limit is %d", field, len(s.Token), maxToken)
	}
	if err := checkText(field+".name", s.Name); err != nil {
		return err
	}
	if err := checkText(field+".id", s.Id); err != nil {
		return err
	}
	return checkMap(field+".metrics", s.Metrics)
}

func checkMechanism(field string, m *connection.Mechanism) error {
	if m.GetType() == "" {
		return fault.New(fault.Invalid, "%s.type is empty", field)
	}
	if err := checkText(field+".type", m.Type); err != nil {
		return err
	}
	switch mechanisms.Class(m.Cls) {
	case "", mechanisms.Local, mechanisms.Remote:
	default:
		return fault.New(fault.Invalid, "%s.cls %.20q: want LOCAL or REMOTE", field, m.Cls)
	}
	if err := checkMap(field+".parameters", m.Parameters); err != nil {
		return err
	}
	if name := m.Parameters[mechanisms.ParamName]; name != "" {
		if err := CheckInterfaceName(name); err != nil {
			return fmt.Errorf("%s.parameters[%s]: %w", field, mechanisms.ParamName, err)
		}
	}
	if inode := m.Parameters[mechanisms.ParamInode]; inode != "" {
		if _, err := mechanisms.ParseInode(inode); err != nil {
			return fmt.Errorf("%s.parameters[%s]: %w", field, mechanisms.ParamInode, err)
		}
	}
	if n := len(m.Parameters[mechanisms.ParamSocket]); n > maxSocketName {
		return fault.New(fault.Invalid, "%s.parameters[%s] has %d bytes; the limit is %d", field, mechanisms.ParamSocket, n, maxSocketName)
	}
	return nil
}

// CheckInterfaceName refuses with fault.Invalid what Linux does not take for the name of an interface.
func CheckInterfaceName(name string) error {
	bad := func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || unicode.IsControl(r)
	}
	switch {
	case name == "" || name == "." || name == ".." || name == "all" || name == "default" || name == "lo":
		return fault.New(fault.Invalid, "interface name %q is reserved", name)
	case len(name) > maxInterface:
		return fault.New(fault.Invalid, "interface name %.60q has %d bytes; Linux takes at most %d", name, len(name), maxInterface)
	case strings.ContainsFunc(name, bad):
		return fault.New(fault.Invalid, "interface name %q: '/', ':', '%%', spaces and control characters are not allowed", name)
	}
	return nil
}

func checkText(field, s string) error {
	if len(s) > maxText {
		return fault.New(fault.Invalid, "%s has %d bytes; the limit is %d", field, len(s), maxText)
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return fault.New(fault.Invalid, "%s %.60q has control characters", field, s)
	}
	return nil
}

func checkMap(field string, m map[string]string) error {
	if len(m) > maxMap {
		return fault.New(fault.Invalid, "%s has %d entries; the limit is %d", field, len(m), maxMap)
	}
	total := 0
	for k, v := range m {
		total += len(k) + len(v)
	}
	if total > maxMapBytes {
		return fault.New(fault.Invalid, "%s has %d bytes; the limit is %d", field, total, maxMapBytes)
	}
	return nil
}
