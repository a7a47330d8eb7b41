package vppapi

import (
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	key := [32]byte{1, 2, 3, 4, 5}
	have := Realized{Interface("a:client"): {Object: AFPacket{Name: "a:client"}, Index: 7}}
	for _, test := range []struct {
		o      Object
		create bool
		want   string
	}{
		{Up{"a:client"}, true, `sw_interface_set_flags {"flags":1,"sw_if_index":7}`},
		{L2XConnect{"a:client", "a:endpoint"}, true, `sw_interface_set_l2_xconnect {"enable":true,"rx_sw_if_index":7,"tx_sw_if_index":4294967295}`},
		{AFPacket{Name: "a:client", Host: "hw1"}, false, `af_packet_delete {"host_if_name":"hw1"}`},
		{WireGuard{Name: "a:endpoint", Local: netip.MustParseAddr("192.0.2.1"), Port: 5, Private: NewPrivateKey(key)}, true, `"private_key":"(private key)"`},
		{foreign{"a:client", "bond"}, true, "none: cannot make an interface of type bond"},
	} {
		got := strings.Join(Messages(test.o, test.create, have), "\n")
		if !strings.Contains(got, test.want) {
			t.Errorf("%s:\n got %s\nwant %s", test.o.Key(), got, test.want)
		}
		if strings.Contains(got, base64.StdEncoding.EncodeToString(key[:])) {
			t.Errorf("%s shows a private key: %s", test.o.Key(), got)
		}
	}
}
