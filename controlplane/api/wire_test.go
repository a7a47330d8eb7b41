package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/api/connectioncontext"
	"highwire/controlplane/api/networkservice"
	"highwire/controlplane/api/registry"
)

var files = []protoreflect.FileDescriptor{
	connection.File_nsm_connection_proto,
	connectioncontext.File_nsm_connectioncontext_proto,
	networkservice.File_nsm_networkservice_proto,
	registry.File_nsm_registry_proto,
}

// The tables below were written from the description of the wire, not from the .proto files: they catch a slip in those.

const wantMessages = `
connection.Connection: 1 id string, 2 network_service string, 3 mechanism connection.Mechanism, 4 context connectioncontext.ConnectionContext, 5 labels map<string,string>, 6 path connection.Path, 7 network_service_endpoint_name string, 8 payload string, 9 state connection.State
connection.ConnectionEvent: 1 type connection.ConnectionEventType, 2 connections map<string,connection.Connection>
connection.Mechanism: 1 cls string, 2 type string, 3 parameters map<string,string>
connection.MonitorScopeSelector: 1 path_segments repeated connection.PathSegment, 2 network_services repeated string
connection.Path: 1 index uint32, 2 path_segments repeated connection.PathSegment
connection.PathSegment: 1 name string, 2 id string, 3 token string, 4 expires google.protobuf.Timestamp, 5 metrics map<string,string>
connectioncontext.ConnectionContext: 1 ip_context connectioncontext.IPContext, 2 dns_context connectioncontext.DNSContext, 3 ethernet_context connectioncontext.EthernetContext, 4 extra_context map<string,string>, 5 MTU uint32
connectioncontext.DNSConfig: 1 dns_server_ips repeated string, 2 search_domains repeated string
connectioncontext.DNSContext: 1 configs repeated connectioncontext.DNSConfig
connectioncontext.EthernetContext: 1 src_mac string, 2 dst_mac string, 3 vlan_tag int32
connectioncontext.ExtraPrefixRequest: 1 addr_family connectioncontext.IpFamily, 2 prefix_len uint32, 3 required_number uint32, 4 requested_number uint32
connectioncontext.IPContext: 1 src_ip_addrs repeated string, 2 dst_ip_addrs repeated string, 3 src_ip_required bool, 4 dst_ip_required bool, 5 src_routes repeated connectioncontext.Route, 6 dst_routes repeated connectioncontext.Route, 7 excluded_prefixes repeated string, 8 ip_neighbors repeated connectioncontext.IpNeighbor, 9 extra_prefix_request repeated connectioncontext.ExtraPrefixRequest, 10 extra_prefixes repeated string, 11 policies repeated connectioncontext.PolicyRoute
connectioncontext.IpFamily: 1 family connectioncontext.IpFamily.Family
connectioncontext.IpNeighbor: 1 ip string, 2 hardware_address string
connectioncontext.PolicyRoute: 1 from string, 2 proto string, 3 dst_port string, 4 src_port string, 5 routes repeated connectioncontext.Route
connectioncontext.Route: 1 prefix string, 2 nextHop string
networkservice.NetworkServiceRequest: 1 connection connection.Connection, 2 mechanism_preferences repeated connection.Mechanism
registry.Destination: 1 destination_selector map<string,string>, 2 weight uint32
registry.Match: 1 source_selector map<string,string>, 2 routes repeated registry.Destination, 3 fallthrough bool, 4 metadata registry.Metadata
registry.Metadata: 1 labels map<string,string>
registry.NetworkService: 1 name string, 2 payload string, 3 matches repeated registry.Match, 4 path_ids repeated string
registry.NetworkServiceEndpoint: 1 name string, 2 network_service_names repeated string, 3 network_service_labels map<string,registry.NetworkServiceLabels>, 4 url string, 5 expiration_time google.protobuf.Timestamp, 6 initial_registration_time google.protobuf.Timestamp, 7 path_ids repeated string
registry.NetworkServiceEndpointQuery: 1 network_service_endpoint registry.NetworkServiceEndpoint, 2 watch bool
registry.NetworkServiceEndpointResponse: 1 network_service_endpoint registry.NetworkServiceEndpoint, 2 deleted bool
registry.NetworkServiceLabels: 1 labels map<string,string>
registry.NetworkServiceQuery: 1 network_service registry.NetworkService, 2 watch bool
registry.NetworkServiceResponse: 1 network_service registry.NetworkService, 2 deleted bool
`

const wantEnums = `
connection.ConnectionEventType: INITIAL_STATE_TRANSFER=0 UPDATE=1 DELETE=2
connection.State: UP=0 DOWN=1 REFRESH_REQUESTED=2 RESELECT_REQUESTED=3
connectioncontext.IpFamily.Family: IPV4=0 IPV6=1
`

const wantMethods = `
/connection.MonitorConnection/MonitorConnections connection.MonitorScopeSelector -> stream connection.ConnectionEvent
/networkservice.NetworkService/Close connection.Connection -> google.protobuf.Empty
/networkservice.NetworkService/Request networkservice.NetworkServiceRequest -> connection.Connection
/registry.NetworkServiceEndpointRegistry/Find registry.NetworkServiceEndpointQuery -> stream registry.NetworkServiceEndpointResponse
/registry.NetworkServiceEndpointRegistry/Register registry.NetworkServiceEndpoint -> registry.NetworkServiceEndpoint
/registry.NetworkServiceEndpointRegistry/Unregister registry.NetworkServiceEndpoint -> google.protobuf.Empty
/registry.NetworkServiceRegistry/Find registry.NetworkServiceQuery -> stream registry.NetworkServiceResponse
/registry.NetworkServiceRegistry/Register registry.NetworkService -> registry.NetworkService
/registry.NetworkServiceRegistry/Unregister registry.NetworkService -> google.protobuf.Empty
`

func TestWire(t *testing.T) {
	var messages, enums, methods []string
	for _, f := range files {
		for i := range f.Messages().Len() {
			m := f.Messages().Get(i)
			messages = append(messages, messageText(m))
			for j := range m.Enums().Len() {
				enums = append(enums, enumText(m.Enums().Get(j)))
			}
		}
		for i := range f.Enums().Len() {
			enums = append(enums, enumText(f.Enums().Get(i)))
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				methods = append(methods, methodText(s.Methods().Get(j)))
			}
		}
	}
	compare(t, "messages", messages, wantMessages)
	compare(t, "enums", enums, wantEnums)
	compare(t, "methods", methods, wantMethods)
}

func compare(t *testing.T, what string, got []string, want string) {
	t.Helper()
	slices.Sort(got)
	wanted := strings.Split(strings.TrimSpace(want), "\n")
	for _, w := range wanted {
		if !slices.Contains(got, w) {
			t.Errorf("%s: missing\n%s", what, w)
		}
	}
	for _, g := range got {
		if !slices.Contains(wanted, g) {
			t.Errorf("%s: not on the wire\n%s", what, g)
		}
	}
}

func messageText(m protoreflect.MessageDescriptor) string {
	var fields []string
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.HasPresence() && f.Message() == nil {
			fields = append(fields, "EXPLICIT PRESENCE")
		}
		fields = append(fields, fmt.Sprintf("%d %s %s", f.Number(), f.Name(), typeText(f)))
	}
	return fmt.Sprintf("%s: %s", m.FullName(), strings.Join(fields, ", "))
}

func typeText(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return fmt.Sprintf("map<%s,%s>", typeText(f.MapKey()), typeText(f.MapValue()))
	}
	text := f.Kind().String()
	switch {
	case f.Message() != nil:
		text = string(f.Message().FullName())
	case f.Enum() != nil:
		text = string(f.Enum().FullName())
	}
	if f.IsList() {
		text = "repeated " + text
	}
	return text
}

func enumText(e protoreflect.EnumDescriptor) string {
	var values []string
	for i := range e.Values().Len() {
		values = append(values, fmt.Sprintf("%s=%d", e.Values().Get(i).Name(), e.Values().Get(i).Number()))
	}
	return fmt.Sprintf("%s: %s", e.FullName(), strings.Join(values, " "))
}

func methodText(m protoreflect.MethodDescriptor) string {
	stream := func(is bool) string {
		if is {
			return "stream "
		}
		return ""
	}
	return fmt.Sprintf("/%s/%s %s%s -> %s%s", m.Parent().FullName(), m.Name(),
		stream(m.IsStreamingClient()), m.Input().FullName(), stream(m.IsStreamingServer()), m.Output().FullName())
}
