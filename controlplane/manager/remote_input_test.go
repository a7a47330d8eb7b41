package manager_test

import (
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"highwire/controlplane/api/connection"
	"highwire/controlplane/manager"
	"highwire/forwarder"
	"highwire/mechanisms"
	"highwire/mechanisms/tunnel"
	"highwire/mechanisms/vxlan"
	"highwire/mechanisms/wireguard"
)

// tunnels are the real mechanisms of a node with the address.
func tunnels(addr string) mechanisms.Set {
	on := tunnel.Fixed{{Addr: netip.MustParseAddr(addr), MTU: 1500}}
	return mechanisms.Set{kernel{}, vxlan.New(on), wireguard.New(on, wireguard.NewSecret([32]byte{addr[len(addr)-1]}))}
}

// building is a dataplane that refuses what the mechanisms cannot build, and holds what it builds.
func building(set mechanisms.Set) *plane {
	p := newPlane()
	p.check = func(v forwarder.VWire) error {
		for _, e := range []mechanisms.End{v.Client, v.Endpoint} {
			m, err := set.Get(e.Type)
			if err == nil {
				_, err = m.Objects(e)
			}
			if h, ok := m.(interface{ Hold(mechanisms.End) error }); ok && err == nil {
				err = h.Hold(e)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return p
}

func key(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }

// What another node says of its tunnel and cannot be used is refused, and nothing is left of it.
func TestRemoteBadRequest(t *testing.T) {
	m := newMesh(t)
	set := tunnels(farAddr)
	a := m.agent(m.source("far"), building(set), func(c *manager.Config) { c.Name, c.Mechanisms = "far", set })
	m.endpoint(a, m.source("nse-a"), ethernet("nse-a"))
	ip := offer("nse-b")
	ip.Services = []string{"vpn"}
	m.endpoint(a, m.source("nse-b"), ip)
	node := m.caller(a, m.source("near"))
	request := func(id, typ string, params map[string]string) error {
		service := "web"
		if typ == mechanisms.WireGuard {
			service = "vpn"
		}
		r := node.request(id, service, "")
		r.MechanismPreferences = []*connection.Mechanism{{Cls: "REMOTE", Type: typ, Parameters: params}}
		_, err := node.do(r)
		return err
	}
	good := map[string]string{"src_ip": nearAddr, "src_port": "51820", "src_public_key": key(32)[:42] + "E="}
	if err := request("other", mechanisms.WireGuard, good); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		typ    string
		params map[string]string
		code   codes.Code
		says   string
	}{
		"no address":        {mechanisms.VXLAN, nil, codes.InvalidArgument, "parameters[src_ip] is missing"},
		"no such address":   {mechanisms.VXLAN, map[string]string{"src_ip": "node-a"}, codes.InvalidArgument, "parameters[src_ip]"},
		"loopback":          {mechanisms.VXLAN, map[string]string{"src_ip": "127.0.0.1"}, codes.InvalidArgument, "parameters[src_ip]"},
		"ours":              {mechanisms.VXLAN, map[string]string{"src_ip": farAddr}, codes.InvalidArgument, "is our own address"},
		"other family":      {mechanisms.VXLAN, map[string]string{"src_ip": "2001:db8::1"}, codes.Unavailable, "--tunnel-ip"},
		"VNI out of range":  {mechanisms.VXLAN, map[string]string{"src_ip": nearAddr, "vni": "16777216"}, codes.InvalidArgument, "parameters[vni]"},
		"MTU too small":     {mechanisms.VXLAN, map[string]string{"src_ip": nearAddr, "MTU": "100"}, codes.InvalidArgument, "parameters[MTU]"},
		"no key":            {mechanisms.WireGuard, map[string]string{"src_ip": nearAddr}, codes.InvalidArgument, "parameters[src_public_key] is missing"},
		"key of 31 bytes":   {mechanisms.WireGuard, map[string]string{"src_ip": nearAddr, "src_public_key": key(31)}, codes.InvalidArgument, "want base64 of 32 bytes"},
		"key of 33 bytes":   {mechanisms.WireGuard, map[string]string{"src_ip": nearAddr, "src_public_key": key(33)}, codes.InvalidArgument, "want base64 of 32 bytes"},
		"key in use":        {mechanisms.WireGuard, good, codes.AlreadyExists, "is in use by another tunnel"},
		"port out of range": {mechanisms.WireGuard, map[string]string{"src_ip": nearAddr, "src_port": "70000", "src_public_key": key(32)[:42] + "I="}, codes.InvalidArgument, "parameters[src_port]"},
		"not a tunnel":      {"SRV6", nil, codes.InvalidArgument, "SRV6"},
	} {
		if err := request("bad", c.typ, c.params); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %s saying %q", name, err, c.code, c.says)
		}
		if n, _, _ := a.plane.counts(); n != 1 || len(a.manager.Snapshot()) != 1 {
			t.Fatalf("%s: %d vWires, %d connections", name, n, len(a.manager.Snapshot()))
		}
	}
}

// What the far node answers and cannot be used is refused, and nothing is left of it on either node.
func TestRemoteBadAnswer(t *testing.T) {
	p := newPair(t)
	p.away.endpoint(p.far, p.source("nse-a"), ethernet("nse-a"))
	p.near.stop()
	set := tunnels(nearAddr)
	p.near = p.agent(p.source("near"), building(set), func(c *manager.Config) { c.Name, c.Mechanisms = "near", set })
	know(t, p.near, p.far.tcp)
	c := p.caller(p.near, p.source("nsc"))
	for name, bad := range map[string]struct {
		lies map[string]string
		says string
	}{
		"VNI out of range":   {map[string]string{"vni": "16777216"}, "parameters[vni]"},
		"no VNI":             {map[string]string{"vni": ""}, "parameters[vni] is missing"},
		"no address":         {map[string]string{"dst_ip": ""}, "parameters[dst_ip] is missing"},
		"our address":        {map[string]string{"dst_ip": nearAddr}, "is our own address"},
		"our side changed":   {map[string]string{"src_ip": "192.0.2.99"}, "our side of it was changed"},
		"other family":       {map[string]string{"dst_ip": "2001:db8::1"}, "of another family"},
		"port that is none":  {map[string]string{"dst_port": "http"}, "parameters[dst_port]"},
		"port out of bounds": {map[string]string{"dst_port": "65536"}, "parameters[dst_port]"},
	} {
		p.farVX.mu.Lock()
		p.farVX.lies = bad.lies
		p.farVX.mu.Unlock()
		if _, err := c.do(c.request("nsc-0", "web", "nsm-1")); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v; want %q", name, err, bad.says)
		}
		nothingLeft(t, p.near, p.far)
	}
}
