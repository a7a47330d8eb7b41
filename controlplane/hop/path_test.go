package hop

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"highwire/controlplane/api/connection"
	"highwire/vppapi/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pathOf makes a path of "name:id" segments.
func pathOf(index uint32, segments ...string) *connection.Path {
	p := &connection.Path{Index: index}
	for _, s := range segments {
		name, id, _ := strings.Cut(s, ":")
		p.PathSegments = append(p.PathSegments, &connection.PathSegment{Name: name, Id: id})
	}
	return p
}

func show(p *connection.Path) string {
	var out []string
	for _, s := range p.PathSegments {
		out = append(out, s.Name+":"+s.Id)
	}
	return strings.Join(out, " ")
}

func TestLocate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 49)
	tests := map[string]struct {
		id    string
		path  *connection.Path
		want  string
		own   int
		ownID string
		err   string
	}{
		"first request":        {"a", pathOf(0, "nsc:a"), "nsc:a me:fresh", 1, "fresh", ""},
		"refresh":              {"a", pathOf(0, "nsc:a", "me:b", "nse:c"), "nsc:a me:b nse:c", 1, "b", ""},
		"other hop before":     {"a", pathOf(0, "nsc:a", "you:b", "nse:c"), "nsc:a me:fresh nse:c", 1, "fresh", ""},
		"further down":         {"b", pathOf(1, "nsc:a", "mgr:b"), "nsc:a mgr:b me:fresh", 2, "fresh", ""},
		"already here":         {"b", pathOf(1, "nsc:a", "me:b"), "nsc:a me:b", 1, "b", ""},
		"id with odd letters":  {"a", pathOf(0, "nsc:a", "me:../b"), "nsc:a me:fresh", 1, "fresh", ""},
		"id too long":          {"a", pathOf(0, "nsc:a", "me:"+long), "nsc:a me:fresh", 1, "fresh", ""},
		"id empty":             {"a", pathOf(0, "nsc:a", "me:"), "nsc:a me:fresh", 1, "fresh", ""},
		"no path":              {"a", nil, "", 0, "", "0 segments"},
		"no segments":          {"a", pathOf(0), "", 0, "", "0 segments"},
		"index behind the end": {"a", pathOf(1, "nsc:a"), "", 0, "", "path.index is 1"},
		"largest index":        {"a", pathOf(1<<32-1, "nsc:a"), "", 0, "", "path.index"},
		"id of another":        {"z", pathOf(0, "nsc:a"), "", 0, "", "connection.id"},
		"client has our name":  {"a", pathOf(0, "me:a"), "", 0, "", "NSM_NAME"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &connection.Connection{Id: test.id, Path: test.path}
			place, err := Locate(c, "me", func() string { return "fresh" })
			if test.err != "" {
				if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if place.Own != test.own || c.Id != test.ownID || c.Path.Index != uint32(test.own) || show(c.Path) != test.want {
				t.Errorf("own %d, id %s, index %d, path %s; want %d, %s, path %s", place.Own, c.Id, c.Path.Index, show(c.Path), test.own, test.ownID, test.want)
			}
			place.Leave(c)
			if c.Path.Index != place.Received || c.Id != test.id {
				t.Errorf("trap 2: back with index %d and id %s, came with %d and %s", c.Path.Index, c.Id, place.Received, test.id)
			}
		})
	}
}

func FuzzLocate(f *testing.F) {
	f.Add("a", uint32(0), "nsc:a me:b nse:c")
	f.Add("b", uint32(1), "nsc:a me:b")
	f.Add("", uint32(9), "")
	f.Fuzz(func(t *testing.T, id string, index uint32, segments string) {
		c := &connection.Connection{Id: id, Path: pathOf(index, strings.Fields(segments)...)}
		place, err := Locate(c, "me", func() string { return "fresh" })
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		own := c.Path.PathSegments[place.Own]
		if place.Own < 1 || own.Name != "me" || own.Id != c.Id || !WellFormedID(c.Id) || int(c.Path.Index) != place.Own {
			t.Fatalf("place %v in %v", place, c)
		}
	})
}

func TestLeaveFillsExpiry(t *testing.T) {
	t.Parallel()
	c := &connection.Connection{Id: "b", Path: pathOf(1, "nsc:a", "me:b", "nse:c")}
	soon := time.Now().Add(time.Minute)
	c.Path.PathSegments[0].Expires = timestamppb.New(soon.Add(time.Hour))
	c.Path.PathSegments[1].Expires = timestamppb.New(soon)
	Place{Received: 0, Own: 1}.Leave(c)
	if got := c.Path.PathSegments[2].Expires.AsTime(); !got.Equal(soon) {
		t.Errorf("trap 1: the segment without expiry got %v, want %v", got, soon)
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	tests := map[string]struct{ expires, deadline, want time.Time }{
		"usual":                        {at(600), at(15), at(585)},
		"no deadline":                  {at(600), time.Time{}, at(600)},
		"deadline behind":              {at(600), at(-1), at(600)},
		"token shorter than deadline":  {at(10), at(15), at(5)},
		"token hardly longer":          {at(20), at(15), at(10)},
		"longest deadline in the time": {at(20), at(10), at(10)},
	}
	for name, test := range tests {
		if got := Expiry(test.expires, now, test.deadline); !got.Equal(test.want) {
			t.Errorf("%s: %s, want %s", name, got.Sub(now), test.want.Sub(now))
		}
	}
}

func TestInterfaceName(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"web", "icmp-responder", "my-vpn@example.com", "ünïcödé", "a/b c:d%"} {
		name := InterfaceName(service, "id-1")
		if err := CheckInterfaceName(name); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		if name != InterfaceName(service, "id-1") || name == InterfaceName(service, "id-2") {
			t.Errorf("%s: %s is not of the connection", service, name)
		}
	}
}
