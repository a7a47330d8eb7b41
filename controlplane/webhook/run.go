package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"highwire/vppapi/fault"
)

// Config is what a replica of the webhook needs. API, Listener, Namespace, Secret, Configuration and Names are needed.
type Config struct {
	Settings
	// API is how to reach the cluster.
	API *rest.Config
	// Listener takes the API servers' calls, by TLS.
	Listener net.Listener
	// Namespace and Secret are where the authority of the certificates is kept, for all replicas.
	Namespace, Secret string
	// Configuration is the name of the MutatingWebhookConfiguration that has API servers call us.
	Configuration string
	// Names that API servers call us by, such as SERVICE.NAMESPACE.svc; or addresses.
	Names []string
	// Lifetime of an authority, 0 for a year.
	Lifetime time.Duration
	// Log is nil for the default one.
	Log *slog.Logger
	// Started hears once that the webhook runs: of its figures, and of a function that tells why no call could be taken.
	Started func(figures *prometheus.Registry, ready func() error)
}

// Run serves until ctx ends.
func Run(ctx context.Context, c Config) error {
	defer c.Listener.Close()
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if err := c.Check(); err != nil {
		return err
	}
	own := fields.OneTermEqualSelector("metadata.name", c.Secret)
	several := true
	m, err := ctrl.NewManager(c.API, ctrl.Options{
		Controller: config.Controller{SkipNameValidation: &several}, // a process may hold several replicas
		Scheme:     scheme.Scheme, Logger: logr.FromSlogHandler(c.Log.Handler()), Metrics: metricsserver.Options{BindAddress: "0"},
		// Only what we may see, and need.
		Cache: cache.Options{ByObject: map[kube.Object]cache.ByObject{
			&corev1.Secret{}: {Namespaces: map[string]cache.Config{c.Namespace: {FieldSelector: own}}},
			&admissionv1.MutatingWebhookConfiguration{}: {Field: fields.OneTermEqualSelector("metadata.name", c.Configuration)},
		}},
	})
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	k := &keeper{
		client: m.GetClient(), secret: types.NamespacedName{Namespace: c.Namespace, Name: c.Secret}, config: c.Configuration,
		names: c.Names, life: lifetime(c.Lifetime), now: time.Now, log: c.Log,
	}
	if err := k.addTo(m); err != nil {
		return err
	}
	f, registry := newFigures(k.expiry)
	hook, err := admission.StandaloneWebhook(&admission.Webhook{
		Handler: &admitter{settings: c.Settings, cached: m.GetClient(), live: m.GetAPIReader(), figures: f, log: c.Log},
	}, admission.StandaloneOptions{Logger: logr.FromSlogHandler(c.Log.Handler())})
	if err != nil {
		return err
	}
	if err := m.Add(server{c.Listener, hook, k, c.Log}); err != nil {
		return err
	}
	if c.Started != nil {
		c.Started(registry, k.ready)
	}
	return m.Start(ctx)
}

// server takes the API servers' calls.
type server struct {
	listener net.Listener
	hook     http.Handler
	keeper   *keeper
	log      *slog.Logger
}

// NeedLeaderElection says that every replica serves.
func (s server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends, and finishes calls that are under way.
func (s server) Start(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("POST /mutate", s.hook)
	h := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		ErrorLog:  slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: s.keeper.certificate},
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = h.Shutdown(late)
	})
	if err := h.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	<-ended
	return nil
}

// nativeSince is the Kubernetes that has native sidecars without being asked.
var nativeSince = version.MustParseGeneric("1.29.0")

// SidecarFor is the kind of sidecar that the cluster can have.
func SidecarFor(api *rest.Config) (Sidecar, error) {
	d, err := discovery.NewDiscoveryClientForConfig(api)
	if err != nil {
		return "", fmt.Errorf("cluster: %w", err)
	}
	info, err := d.ServerVersion()
	if err != nil {
		return "", fault.New(fault.Unavailable, "version of the cluster: %w", err)
	}
	v, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return "", fmt.Errorf("version of the cluster: %w", err)
	}
	if v.LessThan(nativeSince) {
		return Container, nil
	}
	return Native, nil
}
