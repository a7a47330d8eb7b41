package client

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/connection"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseService(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		want Service
		err  string
	}{
		"kernel://icmp-responder/nsm-1":              {Service{Mechanism: "KERNEL", Name: "icmp-responder", Interface: "nsm-1", Labels: map[string]string{}}, ""},
		"kernel://icmp-responder":                    {Service{Mechanism: "KERNEL", Name: "icmp-responder", Interface: "", Labels: map[string]string{}}, ""},
		"kernel://icmp-responder/":                   {Service{Mechanism: "KERNEL", Name: "icmp-responder", Interface: "", Labels: map[string]string{}}, ""},
		"KERNEL://web/a/b/nsm-1":                     {Service{Mechanism: "KERNEL", Name: "web", Interface: "nsm-1", Labels: map[string]string{}}, ""},
		"kernel://my-vpn@example.com/if-2":           {Service{Mechanism: "KERNEL", Name: "my-vpn@example.com", Interface: "if-2", Labels: map[string]string{}}, ""},
		"kernel://web/nsm-1?app=firewall&zone=a%2Cb": {Service{Mechanism: "KERNEL", Name: "web", Interface: "nsm-1", Labels: map[string]string{"app": "firewall", "zone": "a,b"}}, ""},
		"memif://web":                                {Service{Mechanism: "MEMIF", Name: "web", Interface: "", Labels: map[string]string{}}, ""},
		"memif://web/fast?zone=a":                    {Service{Mechanism: "MEMIF", Name: "web", Interface: "fast", Labels: map[string]string{"zone": "a"}}, ""},
		"":                                           {err: "no network service"},
		"web":                                        {err: "mechanism"},
		"srv6://web":                                 {err: "mechanism"},
		"kernel:///nsm-1":                            {err: "no service"},
		"kernel://@example.com":                      {err: "no service before"},
		"kernel://a:b@example.com":                   {err: "more in it"},
		"kernel:web":                                 {err: "no service"},
		"kernel://web#x":                             {err: "more in it"},
		"kernel://web/sixteen-letters-":              {err: "16 bytes"},
		"kernel://web/a?k=1&k=2":                     {err: "more than once"},
		"kernel://web/a?%zz":                         {err: "labels"},
		"kernel://we b/a":                            {err: "character 12: ' ' is invalid"},
		"kernel://web/a?zone":                        {Service{Mechanism: "KERNEL", Name: "web", Interface: "a", Labels: map[string]string{"zone": ""}}, ""},
		"kernel://web/a?=b":                          {err: "character 16: one of its labels has no name"},
		"kernel://web/a?b=1 2":                       {err: "character 19: its labels"},
		"kernel://web@":                              {err: "no domain after"},
		"kernel://web@[fd00::1]:5005/a":              {Service{Mechanism: "KERNEL", Name: "web@[fd00::1]:5005", Interface: "a", Labels: map[string]string{}}, ""},
		"kernel://web@a@b":                           {err: "character 15: there is more in it"},
		"kernel://web?sriovToken=lab":                {err: "character 25: label sriovToken"},
		" kernel://web ":                             {Service{Mechanism: "KERNEL", Name: "web", Labels: map[string]string{}}, ""},
	}
	for in, test := range tests {
		got, err := ParseService(in)
		switch {
		case test.err != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.err)):
			t.Errorf("%s: error %v, want %q", in, err, test.err)
		case test.err == "" && (err != nil || !reflect.DeepEqual(got, test.want)):
			t.Errorf("%s: %v, %v; want %v", in, got, err, test.want)
		}
	}
	list, err := ParseServices("kernel://a/x, kernel://b/y")
	if err != nil || len(list) != 2 || list[1].Name != "b" {
		t.Errorf("list %v, %v", list, err)
	}
}

// A fault in a list is told by its place in the whole list.
func TestParseServicesPosition(t *testing.T) {
	t.Parallel()
	for in, test := range map[string]struct {
		character int
		why       string
	}{
		"":                                       {1, "no network service"},
		"kernel://a,":                            {12, "no network service"},
		"kernel://a, ,kernel://b":                {13, "no network service"},
		"kernel://a/x, srv6://b":                 {15, "mechanism"},
		"kernel://ä/x , kernel:/b":               {22, "want ://"},
		"kernel://a/x,\n  kernel://b/x":          {28, "twice"},
		"kernel://a,kernel://b/sixteen-letters-": {23, "16 bytes"},
		"kernel://a?k=1,kernel://b?k=1&z=%4g":    {33, "labels"},
		"kernel://a?k=1,kernel://b?k=1&k=2":      {31, "more than once"},
		"kernel://x/x?x=1 , kernel://x/x?x=x":    {31, "twice"},
	} {
		_, err := ParseServices(in)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || !fault.Is(err, fault.Invalid) || syntax.Character() != test.character || !strings.Contains(syntax.Why, test.why) {
			t.Errorf("%q: %v, want character %d: %s", in, err, test.character, test.why)
		}
	}
}

// A memif is only dialled where it was asked for.
func TestCheckMemif(t *testing.T) {
	t.Parallel()
	c := &Client{inode: mechanisms.Inode{Dev: 4, Ino: 9}}
	service := Service{Mechanism: "MEMIF", Interface: "fast"}
	for name, test := range map[string]struct {
		parameters map[string]string
		err        string
	}{
		"good":            {map[string]string{"socketfile": "@a", "inodeURL": "inode://4/9", "name": "fast"}, ""},
		"no socket":       {map[string]string{"inodeURL": "inode://4/9", "name": "fast"}, "abstract"},
		"a file":          {map[string]string{"socketfile": "/run/a", "inodeURL": "inode://4/9", "name": "fast"}, "abstract"},
		"other namespace": {map[string]string{"socketfile": "@a", "inodeURL": "inode://4/8", "name": "fast"}, "we asked for MEMIF in inode://4/9"},
		"other name":      {map[string]string{"socketfile": "@a", "inodeURL": "inode://4/9", "name": "slow"}, "slow"},
	} {
		answer := &connection.Connection{Mechanism: &connection.Mechanism{Type: "MEMIF", Parameters: test.parameters}}
		err := c.check(service, answer, answer, nil)
		if test.err == "" && err != nil || test.err != "" && (!fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: %v, want %q", name, err, test.err)
		}
	}
}

func FuzzParseServices(f *testing.F) {
	for _, s := range []string{
		"kernel://my-vpn@example.com/if-2?a=b,kernel://b/y", "kernel://a, memif://b?%zz", "kernel://\xff", "kernel://a/x,kernel://b/x", "kernel://a?b=%", " , ", "kernel:/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseServices(s)
		if err != nil {
			var syntax *SyntaxError
			if !fault.Is(err, fault.Invalid) || !errors.As(err, &syntax) || syntax.Offset < 0 || syntax.Offset > len(s) {
				t.Fatalf("kind or place of %v", err)
			}
			return
		}
		for _, service := range list {
			if service.Name == "" || service.Mechanism != "KERNEL" && service.Mechanism != "MEMIF" || len(service.Interface) > 15 {
				t.Fatalf("%q gave %v", s, service)
			}
		}
	})
}

// §3.3: a fifth of the shortest lifetime.
func TestRefreshDelay(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	path := func(seconds ...int) *connection.Connection {
		c := &connection.Connection{Path: &connection.Path{}}
		for _, s := range seconds {
			c.Path.PathSegments = append(c.Path.PathSegments, &connection.PathSegment{Expires: timestamppb.New(now.Add(time.Duration(s) * time.Second))})
		}
		return c
	}
	for want, c := range map[time.Duration]*connection.Connection{
		2 * time.Minute:        path(600, 700, 600),
		4 * time.Second:        path(600, 20),
		10 * time.Second:       path(30),
		100 * time.Millisecond: path(-5, 600),
	} {
		if got := refreshDelay(c, now).Round(time.Millisecond); got != want {
			t.Errorf("refresh after %s, want %s", got, want)
		}
	}
}
