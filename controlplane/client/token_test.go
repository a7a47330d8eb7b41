package client

import (
	"reflect"
	"strings"
	"testing"
)

func TestTakeTokens(t *testing.T) {
	environ := []string{"PATH=/bin", "NSM_SRIOV_TOKENS_blue/10G=sriov-1,sriov-2", "NSM_SRIOV_TOKENS_red/x="}
	for name, row := range map[string]struct{ urls, want, fails string }{
		"two of a name": {"kernel://a/x?sriovToken=blue/10G,kernel://b?sriovToken=blue/10G&k=v,kernel://c", "sriov-1 sriov-2 -", ""},
		"too many":      {"kernel://a?sriovToken=blue/10G,kernel://b?sriovToken=blue/10G,kernel://c?sriovToken=blue/10G", "", "service c: no token left"},
		"an empty one":  {"kernel://a?sriovToken=red/x", "", "no token left"},
	} {
		services, err := ParseServices(row.urls)
		if err != nil {
			t.Fatal(err)
		}
		err = TakeTokens(services, environ)
		if row.fails != "" {
			if err == nil || !strings.Contains(err.Error(), row.fails) {
				t.Errorf("%s: error %v, want %q", name, err, row.fails)
			}
			continue
		}
		var got []string
		for _, s := range services {
			id := s.TokenID
			if id == "" {
				id = "-"
			}
			got = append(got, id)
		}
		if err != nil || strings.Join(got, " ") != row.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if want := map[string]string{"serviceDomain": "blue", "k": "v"}; !reflect.DeepEqual(services[1].Labels, want) {
			t.Errorf("%s: labels %v, want %v", name, services[1].Labels, want)
		}
	}
}
