package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers /metrics, and the probes of an orchestrator: /startupz is well once the agent serves, /readyz while a Request
// could succeed, /healthz while the process can answer at all. What is not well is 503 with the reason. It shows no more than
// that: no ids of namespaces, no addresses, no tokens.
type Server struct {
	listener net.Listener
	registry atomic.Pointer[http.Handler]
	ready    atomic.Pointer[func() error]
}

// Listen opens the TCP address, such as 127.0.0.1:9273. Until Started, only /healthz is well.
func Listen(address string) (*Server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics: %w; choose another address", err)
	}
	return &Server{listener: l}, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Started says that the agent serves. ready tells why no Request could succeed now, nil if one could.
func (s *Server) Started(registry *prometheus.Registry, ready func() error) {
	h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn), Registry: registry, MaxRequestsInFlight: 4})
	s.registry.Store(&h)
	s.ready.Store(&ready)
}

var errStarting = errors.New("the agent is starting")

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if h := s.registry.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		probe(w, errStarting)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { probe(w, nil) })
	mux.HandleFunc("GET /startupz", func(w http.ResponseWriter, _ *http.Request) {
		if s.ready.Load() == nil {
			probe(w, errStarting)
			return
		}
		probe(w, nil)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ready := s.ready.Load()
		if ready == nil {
			probe(w, errStarting)
			return
		}
		probe(w, (*ready)())
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func probe(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
