package hop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"highwire/controlplane/api/connection"
	"highwire/vppapi/fault"
)

func conn(id, service string, segments ...string) *connection.Connection {
	return &connection.Connection{Id: id, NetworkService: service, Path: pathOf(1, segments...)}
}

func TestSelects(t *testing.T) {
	t.Parallel()
	c := conn("b", "web", "nsc:a", "mgr:b", "nse:c")
	tests := map[string]struct {
		selector *connection.MonitorScopeSelector
		want     bool
	}{
		"none":                {nil, true},
		"empty":               {&connection.MonitorScopeSelector{}, true},
		"one empty segment":   {&connection.MonitorScopeSelector{PathSegments: pathOf(0, ":").PathSegments}, true},
		"by id":               {&connection.MonitorScopeSelector{PathSegments: pathOf(0, ":b").PathSegments}, true},
		"by name and id":      {&connection.MonitorScopeSelector{PathSegments: pathOf(0, "nsc:a").PathSegments}, true},
		"neighbours":          {&connection.MonitorScopeSelector{PathSegments: pathOf(0, "mgr:b", "nse:").PathSegments}, true},
		"not neighbours":      {&connection.MonitorScopeSelector{PathSegments: pathOf(0, "nsc:a", "nse:c").PathSegments}, false},
		"longer":              {&connection.MonitorScopeSelector{PathSegments: pathOf(0, ":", ":", ":", ":").PathSegments}, false},
		"other id":            {&connection.MonitorScopeSelector{PathSegments: pathOf(0, "nsc:z").PathSegments}, false},
		"other token":         {&connection.MonitorScopeSelector{PathSegments: []*connection.PathSegment{{Token: "t"}}}, false},
		"by service":          {&connection.MonitorScopeSelector{NetworkServices: []string{"dns", "web"}}, true},
		"other service":       {&connection.MonitorScopeSelector{NetworkServices: []string{"dns"}}, false},
		"service and segment": {&connection.MonitorScopeSelector{NetworkServices: []string{"web"}, PathSegments: pathOf(0, "x:").PathSegments}, false},
	}
	for name, test := range tests {
		if got := Selects(test.selector, c); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	var hub Hub
	hub.Put(conn("b", "web", "nsc:a", "mgr:b"))
	hub.Put(conn("y", "web", "nsc:x", "mgr:y"))
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan *connection.ConnectionEvent, 10)
	done := make(chan error, 1)
	go func() {
		done <- hub.Watch(ctx, &connection.MonitorScopeSelector{PathSegments: pathOf(0, "nsc:a").PathSegments},
			func(e *connection.ConnectionEvent) error { events <- e; return nil })
	}()
	next := func(kind connection.ConnectionEventType, state connection.State) {
		t.Helper()
		select {
		case e := <-events:
			if e.Type != kind || len(e.Connections) != 1 || e.Connections["b"].GetState() != state {
				t.Errorf("event %v, want %s with b %s", e, kind, state)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
		}
	}
	next(connection.ConnectionEventType_INITIAL_STATE_TRANSFER, connection.State_UP)
	hub.SetState("y", connection.State_DOWN)
	hub.SetState("b", connection.State_UP)
	hub.SetState("b", connection.State_DOWN)
	next(connection.ConnectionEventType_UPDATE, connection.State_DOWN)
	hub.Put(conn("b", "web", "nsc:a", "mgr:b"))
	next(connection.ConnectionEventType_UPDATE, connection.State_UP)
	hub.Remove("y")
	hub.Remove("b")
	hub.Remove("b")
	next(connection.ConnectionEventType_DELETE, connection.State_UP)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// A watcher that takes nothing must not make the hub grow, nor hold it up.
func TestSlowWatcher(t *testing.T) {
	t.Parallel()
	var hub Hub
	stuck, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		first := sync.OnceFunc(func() { close(stuck); <-release })
		done <- hub.Watch(t.Context(), nil, func(*connection.ConnectionEvent) error { first(); return nil })
	}()
	<-stuck
	for i := range backlog + 10 {
		hub.Put(conn(fmt.Sprint(i), "web", "nsc:a"))
	}
	close(release)
	select {
	case err := <-done:
		if !fault.Is(err, fault.Exhausted) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the slow watcher is still there")
	}
	if len(hub.watchers) != 0 {
		t.Errorf("%d groups of watchers are kept", len(hub.watchers))
	}
}
