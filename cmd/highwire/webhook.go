package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"highwire/controlplane/metrics"
	"highwire/controlplane/webhook"
)

// sidecarAuto leaves the kind of sidecar to the cluster's version.
const sidecarAuto = "auto"

// injection holds the flags that say what pods get.
type injection struct {
	webhook.Settings
	sidecar, pull    string
	requests, limits map[string]string
}

func (i *injection) add(flags *pflag.FlagSet) {
	i.Settings = webhook.Defaults()
	flags.StringVar(&i.Image, "image", "highwire:"+version, "image of both containers, with highwire as its entrypoint")
	flags.StringVar(&i.pull, "image-pull-policy", string(i.PullPolicy), "Always, IfNotPresent or Never")
	flags.StringVar(&i.InitName, "init-name", i.InitName, "name of the init container, which makes the connections")
	flags.StringVar(&i.SidecarName, "sidecar-name", i.SidecarName, "name of the sidecar, which keeps them")
	flags.StringVar(&i.sidecar, "sidecar", sidecarAuto, "native: an init container that is always restarted, which a Job does not wait for; container: one beside the application; auto: native since Kubernetes 1.29")
	flags.StringToStringVar(&i.requests, "requests", map[string]string{"cpu": "20m", "memory": "64Mi"}, "what each of the two requests")
	flags.StringToStringVar(&i.limits, "limits", map[string]string{"cpu": "20m", "memory": "64Mi"}, "limits of each of the two; the same as --requests, so that a pod of class Guaranteed stays one")
	flags.Int64Var(&i.User, "user", i.User, "user id that both run as; the development CA of an agent wants the agent's, 0")
	flags.BoolVar(&i.DNS, "dns", false, "have the sidecar answer the pod's DNS queries, from the nameservers of its services too; it is root then, with a writable root file system and CAP_NET_BIND_SERVICE")
	flags.StringVar(&i.Sockets, "socket-dir", i.Sockets, "directory on the node with the agent's socket")
	flags.StringVar(&i.ConnectTo, "socket-name", i.ConnectTo, "name of the socket in it")
	flags.StringVar(&i.SPIFFE, "spiffe-dir", "", "directory on the node with the SPIFFE Workload API's socket (default: a volume of the CSI driver csi.spiffe.io)")
	flags.StringVar(&i.SPIFFESocket, "spiffe-name", i.SPIFFESocket, "name of the socket in it")
	flags.StringToStringVar(&i.Labels, "pod-label", i.Labels, "label that a pod gets if it has none of that name, repeatable: KEY=VALUE")
	flags.StringArrayVar(&i.Args, "client-arg", nil, "further argument of both clients, repeatable: --client-arg=--log-level=debug")
}

// resolve completes the settings. cluster tells which kind of sidecar it can have.
func (i *injection) resolve(cluster func() (webhook.Sidecar, error)) error {
	var err error
	i.Sidecar, i.PullPolicy = webhook.Sidecar(i.sidecar), corev1.PullPolicy(i.pull)
	if i.sidecar == sidecarAuto {
		if i.Sidecar, err = cluster(); err != nil {
			return err
		}
	}
	switch i.PullPolicy {
	case corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return usagef("--image-pull-policy %q: want Always, IfNotPresent or Never", i.pull)
	}
	if i.Resources.Requests, err = quantities("--requests", i.requests); err != nil {
		return err
	}
	if i.Resources.Limits, err = quantities("--limits", i.limits); err != nil {
		return err
	}
	if err := i.Check(); err != nil {
		return usageError{err}
	}
	return nil
}

func quantities(flag string, m map[string]string) (corev1.ResourceList, error) {
	var list corev1.ResourceList
	for name, text := range m {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, usagef("%s %s=%s: %w", flag, name, text, err)
		}
		if list == nil {
			list = corev1.ResourceList{}
		}
		list[corev1.ResourceName(name)] = q
	}
	return list, nil
}

func newWebhook() *cobra.Command {
	var (
		i                   injection
		c                   webhook.Config
		listen, metricsAt   string
		kubeconfig, service string
		logs                logFlags
	)
	cmd := &cobra.Command{
		Use:   "webhook",
		Short: "Put clients into annotated pods of a Kubernetes cluster",
		Long: `Answers the API servers of a cluster when pods, workloads and namespaces are made. A pod with the annotation
networkservicemesh.io, or in a namespace with it, gets an init container, which connects it to the network services named there, and a
sidecar, which keeps it connected:

  networkservicemesh.io: kernel://SERVICE[@DOMAIN][/INTERFACE][?LABEL=VALUE&...], ...

A workload (Deployment, DaemonSet, StatefulSet, ReplicaSet, Job, CronJob) with the annotation passes it on to its pods. An annotation
that is wrong is refused, and the place of the fault is said; 'highwire annotate check' tells it before. An empty annotation of a pod wants
nothing, whatever its namespace has. Pods in the node's own network get none.

Its certificates come from an authority of its own in the Secret, which all replicas share and renew in time; what API servers
are to trust is written into the MutatingWebhookConfiguration. The manifests in deploy/ bring both, and the rights for them.`,
		Example: "  highwire webhook --metrics :9273\n  highwire webhook --kubeconfig ~/.kube/config --listen 192.0.2.7:9443 --tls-name 192.0.2.7 --namespace highwire-system",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger(cmd)
			if err != nil {
				return err
			}
			slog.SetDefault(log)
			ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
			klog.SetSlogLogger(log)
			if c.API, err = cluster(kubeconfig); err != nil {
				return err
			}
			if err := i.resolve(func() (webhook.Sidecar, error) { return webhook.SidecarFor(c.API) }); err != nil {
				return err
			}
			c.Settings = i.Settings
			if c.Namespace == "" {
				return usagef("--namespace: which one has the Secret?")
			}
			if len(c.Names) == 0 {
				c.Names = []string{service + "." + c.Namespace + ".svc"}
			}
			if c.Lifetime < time.Minute {
				return usagef("--ca-lifetime %v: want a minute or more", c.Lifetime)
			}
			return runWebhook(cmd.Context(), c, listen, metricsAt, log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", ":9443", "where API servers call, by TLS")
	flags.StringVar(&metricsAt, "metrics", "", "where /metrics, /healthz, /readyz and /startupz answer, without TLS (default: nowhere)")
	flags.StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster (default: KUBECONFIG, or as a pod of it)")
	flags.StringVar(&c.Namespace, "namespace", ownNamespace(), "namespace of the Secret")
	flags.StringVar(&c.Secret, "secret", "highwire-webhook", "Secret that the replicas share their authority by")
	flags.StringVar(&c.Configuration, "configuration", "highwire", "MutatingWebhookConfiguration that is to trust it")
	flags.StringVar(&service, "service", "highwire-webhook", "Service that API servers call, in --namespace")
	flags.StringSliceVar(&c.Names, "tls-name", nil, "name or address that API servers call, repeatable (default: SERVICE.NAMESPACE.svc)")
	flags.DurationVar(&c.Lifetime, "ca-lifetime", 365*24*time.Hour, "how long an authority lives; the next one comes when a third is left")
	i.add(flags)
	logs.add(flags)
	return cmd
}

// cluster is how to reach the API server.
func cluster(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	api, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster: %w; say --kubeconfig FILE, or run as a pod", err)
	}
	return api, nil
}

// ownNamespace is the one that we run in as a pod, empty elsewhere.
func ownNamespace() string {
	data, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func runWebhook(ctx context.Context, c webhook.Config, listen, metricsAt string, log *slog.Logger) error {
	p := newParts(ctx)
	if metricsAt != "" {
		figures, err := metrics.Listen(metricsAt)
		if err != nil {
			return p.abort(fmt.Errorf("--metrics: %w", err))
		}
		p.run("metrics", figures.Run)
		c.Started = func(registry *prometheus.Registry, ready func() error) { figures.Started(registry, ready) }
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return p.abort(fmt.Errorf("--listen: %w", err))
	}
	c.Listener, c.Log = listener, log
	p.run("webhook", func(ctx context.Context) error { return webhook.Run(ctx, c) })
	log.Info("webhook", "listen", listener.Addr(), "names", c.Names, "image", c.Image, "sidecar", c.Sidecar)
	return p.wait()
}
