package main

import (
	"strings"
	"testing"
)

func TestPublicURL(t *testing.T) {
	const unix = "unix:///run/nsm.sock"
	for _, c := range []struct {
		directory
		listen []string
		want   string // the URL, or of an error
	}{
		{directory{}, []string{unix}, ""},
		{directory{}, []string{unix, "tcp://10.0.0.1:5001", "tcp://10.0.0.2:5001"}, "tcp://10.0.0.1:5001"},
		{directory{}, []string{"tcp://:5001"}, ""},
		{directory{registry: "tcp://127.0.0.1:1"}, []string{"tcp://:5001"}, "tcp://127.0.0.1:5001"},
		{directory{registry: "tcp://127.0.0.1:1"}, []string{"tcp://[::]:5001"}, "tcp://127.0.0.1:5001"},
		{directory{registry: "tcp://127.0.0.1:1"}, []string{unix}, "--listen tcp://ip:port"},
		{directory{registry: "http://127.0.0.1:1"}, []string{"tcp://127.0.0.1:5001"}, "--registry"},
		{directory{etcd: etcd{endpoints: []string{"http://127.0.0.1:2379"}}}, []string{"tcp://:5001"}, "tcp://127.0.0.1:5001"},
		{directory{etcd: etcd{endpoints: []string{"127.0.0.1:2379"}}}, []string{"tcp://:5001"}, "--etcd"},
		{directory{etcd: etcd{endpoints: []string{"http://127.0.0.1:2379"}, ca: "ca.pem"}}, []string{"tcp://:5001"}, "https://"},
		{directory{etcd: etcd{endpoints: []string{"https://127.0.0.1:2379"}, cert: "x.pem"}}, []string{"tcp://:5001"}, "--etcd-key"},
		{directory{etcd: etcd{endpoints: []string{"http://127.0.0.1:2379"}}, registry: "tcp://127.0.0.1:1"}, []string{"tcp://:5001"}, "one registry"},
		{directory{kubernetes: kubernetes{use: true}}, []string{"tcp://10.0.0.1:5001"}, "tcp://10.0.0.1:5001"},
		{directory{kubernetes: kubernetes{use: true}}, []string{"tcp://:5001"}, "--public-url"},
		{directory{kubernetes: kubernetes{use: true}, registry: "tcp://127.0.0.1:1"}, []string{"tcp://:5001"}, "one registry"},
		{directory{kubernetes: kubernetes{kubeconfig: "x"}}, []string{"tcp://:5001"}, "without --kubernetes"},
		{directory{domains: []string{"b.example=127.0.0.1:1"}}, nil, "--domain"},
		{directory{domains: []string{"*", "b.example=tcp://127.0.0.1:1"}}, nil, ""},
		{directory{public: "tcp://192.0.2.1:5001"}, []string{"tcp://:5001"}, "tcp://192.0.2.1:5001"},
		{directory{public: "tcp://0.0.0.0:5001"}, nil, "--public-url"},
		{directory{public: "192.0.2.1:5001"}, nil, "--public-url"},
	} {
		d := c.directory
		err := d.resolve(c.listen)
		switch {
		case err == nil && d.public != c.want:
			t.Errorf("%+v, %v: %q, want %q", c.directory, c.listen, d.public, c.want)
		case err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v, %v: %v, want %q", c.directory, c.listen, err, c.want)
		}
	}
}
