package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"highwire/controlplane/kubetest"
)

// cluster is a real Kubernetes API with deploy/webhook, and two replicas of the webhook that it calls by its Service. The replicas
// have the rights of their service account and no others.
type cluster struct {
	t       *testing.T
	ctx     context.Context
	kubectl *kubetest.Client
	api     kubernetes.Interface
	names   []string // addresses of the replicas
}

const within = 2 * time.Minute

// eventually returns once fn does without an error.
func (c *cluster) eventually(what string, fn func() error) {
	c.t.Helper()
	_, err := backoff.Retry(c.ctx, func() (struct{}, error) { return struct{}{}, fn() },
		backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxElapsedTime(within))
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

func startCluster(t *testing.T) (*kubetest.Cluster, *cluster) {
	t.Helper()
	k := kubetest.Start(t)
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	c := &cluster{t: t, ctx: ctx, kubectl: kubetest.NewClient(t, k.Admin())}
	var err error
	if c.api, err = kubernetes.NewForConfig(k.Admin()); err != nil {
		t.Fatal(err)
	}
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners, c.names = append(listeners, l), append(c.names, l.Addr().String())
	}
	for _, namespace := range []string{"highwire", "shop", "annotated"} {
		c.apply(fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s}}", namespace))
		c.apply(fmt.Sprintf("{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: %s}}", namespace))
	}
	_, port, err := net.SplitHostPort(c.names[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"webhook.yaml", "roles.yaml", "networkpolicy.yaml", "configuration.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/webhook", file))
		if err != nil {
			t.Fatal(err)
		}
		// There are no nodes to route a Service to; it stands for this machine instead.
		text = bytes.ReplaceAll(text, []byte("path: /mutate, port: 443"), []byte("path: /mutate, port: "+port))
		c.apply(string(text))
	}
	if err := c.api.CoreV1().Services("highwire").Delete(ctx, "highwire-webhook", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.apply("{apiVersion: v1, kind: Service, metadata: {name: highwire-webhook, namespace: highwire}, spec: {type: ExternalName, externalName: localhost}}")

	running, stop := context.WithCancel(context.Background())
	var ended []chan struct{}
	t.Cleanup(func() {
		stop()
		for _, e := range ended {
			<-e
		}
	})
	for _, l := range listeners {
		done, started := make(chan struct{}), make(chan func() error, 1)
		ended = append(ended, done)
		go func() {
			defer close(done)
			s := settings(nil)
			err := Run(running, Config{
				Settings: *s, API: k.ServiceAccount("highwire", "highwire-webhook"), Listener: l, Namespace: "highwire", Secret: "highwire-webhook",
				Configuration: "highwire", Names: []string{"highwire-webhook.highwire.svc"},
				Started: func(_ *prometheus.Registry, ready func() error) { started <- ready },
			})
			if err != nil {
				t.Errorf("replica: %v", err)
			}
		}()
		select {
		case ready := <-started:
			c.eventually("replica is ready", ready)
		case <-done:
			t.FailNow()
		}
	}
	return k, c
}

func (c *cluster) apply(manifests string) {
	c.t.Helper()
	if err := c.kubectl.Apply(c.ctx, "shop", []byte(manifests)); err != nil {
		c.t.Fatalf("%v\n%s", err, manifests)
	}
}

// pod makes one and returns what has become of it.
func (c *cluster) pod(namespace, name, metadata, spec string) (*corev1.Pod, error) {
	err := c.kubectl.Apply(c.ctx, namespace, fmt.Appendf(nil,
		"{apiVersion: v1, kind: Pod, metadata: {name: %s, %s}, spec: {%s containers: [{name: app, image: app, resources: {limits: {lab/1G: 2}}}]}}", name, metadata, spec))
	if err != nil {
		return nil, err
	}
	return c.api.CoreV1().Pods(namespace).Get(c.ctx, name, metav1.GetOptions{})
}

func containerNames(list []corev1.Container) string {
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

// A real API server calls the webhook for real objects.
func TestCluster(t *testing.T) {
	k, c := startCluster(t)
	c.eventually("the API server calls the webhook", func() error {
		_, err := c.pod("shop", "first", "annotations: {networkservicemesh.io: kernel://db/db0}", "")
		return err
	})
	c.pods()
	c.workloads()
	c.replicas()
	c.rights(k)
	err := c.kubectl.Apply(c.ctx, "", []byte("{apiVersion: v1, kind: Namespace, metadata: {name: wrong, annotations: {networkservicemesh.io: 'kernel://a, x'}}}"))
	if err == nil || !strings.Contains(err.Error(), "character 13: the mechanism") {
		t.Errorf("namespace with a wrong annotation: %v", err)
	}
}

func (c *cluster) pods() {
	t := c.t
	pod, err := c.pod("shop", "both", "annotations: {networkservicemesh.io: 'kernel://db/db0?sriovToken=lab/1G, kernel://web'}", "initContainers: [{name: migrate, image: app}], ")
	if err != nil {
		t.Fatal(err)
	}
	if got := containerNames(pod.Spec.InitContainers); got != "highwire-init highwire migrate" {
		t.Errorf("init containers %s", got)
	}
	for _, container := range append(pod.Spec.InitContainers[:2:2], pod.Spec.Containers[0]) {
		want := "1"
		if container.Name == "app" {
			want = "2"
		}
		if q := container.Resources.Limits["lab/1G"]; q.String() != want {
			t.Errorf("container %s has %s of lab/1G, want %s", container.Name, q.String(), want)
		}
	}
	if pod.Labels["spiffe.io/spiffe-id"] != "true" {
		t.Errorf("labels %v", pod.Labels)
	}
	// What is there comes by again, as a new pod.
	again := pod.DeepCopy()
	again.ObjectMeta = metav1.ObjectMeta{Name: "again", Namespace: "shop", Annotations: pod.Annotations}
	if again, err = c.api.CoreV1().Pods("shop").Create(c.ctx, again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := containerNames(again.Spec.InitContainers); got != "highwire-init highwire migrate" {
		t.Errorf("the second time: %s", got)
	}
	c.apply("{apiVersion: v1, kind: Namespace, metadata: {name: annotated, annotations: {networkservicemesh.io: kernel://db}}}")
	c.eventually("pods of an annotated namespace", func() error {
		p, err := c.pod("annotated", "plain", "labels: {a: b}", "")
		if err == nil && (containerNames(p.Spec.InitContainers) != "highwire-init highwire" || p.Annotations[Annotation] != "kernel://db") {
			err = fmt.Errorf("%s, %v", containerNames(p.Spec.InitContainers), p.Annotations)
			_ = c.api.CoreV1().Pods("annotated").Delete(c.ctx, "plain", *metav1.NewDeleteOptions(0))
		}
		return err
	})
	for name, test := range map[string]struct{ namespace, metadata, spec, refused string }{
		"none":      {"shop", "labels: {a: b}", "", ""},
		"opted-out": {"annotated", "annotations: {networkservicemesh.io: ''}", "", ""},
		"node":      {"annotated", "labels: {a: b}", "hostNetwork: true, ", ""},
		"host":      {"shop", "annotations: {networkservicemesh.io: kernel://db}", "hostNetwork: true, ", "hostNetwork"},
		"wrong":     {"shop", "annotations: {networkservicemesh.io: 'kernel://db, kernel://web/sixteen-letters-'}", "", "character 27: interface name"},
	} {
		p, err := c.pod(test.namespace, name, test.metadata, test.spec)
		switch {
		case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
			t.Errorf("pod %s: %v, want %q", name, err, test.refused)
		case test.refused == "" && (err != nil || len(p.Spec.InitContainers) > 0):
			t.Errorf("pod %s: %v, %v", name, p, err)
		}
	}
}

func (c *cluster) workloads() {
	t := c.t
	deployment := func(annotations string) string {
		return "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, annotations: {" + annotations + "}}, spec: {selector: {matchLabels: {a: b}}, " +
			"template: {metadata: {labels: {a: b}}, spec: {containers: [{name: app, image: app}]}}}}"
	}
	look := func() (map[string]string, int64) {
		d, err := c.api.AppsV1().Deployments("shop").Get(c.ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Spec.Template.Spec.InitContainers) > 0 {
			t.Errorf("containers in a template: %v", d.Spec.Template.Spec)
		}
		return d.Spec.Template.Annotations, d.Generation
	}
	c.apply(deployment("networkservicemesh.io: kernel://db"))
	annotations, generation := look()
	if annotations[Annotation] != "kernel://db" || annotations[Copied] != "Deployment" {
		t.Errorf("template of a Deployment: %v", annotations)
	}
	// Applied again nothing changes, so nothing is rolled out; and what changes is followed.
	c.apply(deployment("networkservicemesh.io: kernel://db"))
	if _, same := look(); same != generation {
		t.Errorf("generation %d, was %d", same, generation)
	}
	c.apply(deployment("networkservicemesh.io: kernel://other"))
	if annotations, _ = look(); annotations[Annotation] != "kernel://other" {
		t.Errorf("template after a change: %v", annotations)
	}
	c.apply(deployment(""))
	if annotations, _ = look(); len(annotations) > 0 {
		t.Errorf("template after the annotation was taken away: %v", annotations)
	}
	err := c.kubectl.Apply(c.ctx, "shop", []byte(deployment("networkservicemesh.io: vxlan://db")))
	if err == nil || !strings.Contains(err.Error(), "character 1: the mechanism") {
		t.Errorf("a wrong one: %v", err)
	}
	template := "template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, containers: [{name: app, image: app}]}}"
	c.apply("{apiVersion: batch/v1, kind: Job, metadata: {name: once, annotations: {networkservicemesh.io: kernel://db}}, spec: {" + template + "}}")
	c.apply("{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly, annotations: {networkservicemesh.io: kernel://db}}, " +
		"spec: {schedule: '0 3 * * *', jobTemplate: {spec: {" + template + "}}}}")
	job, err := c.api.BatchV1().Jobs("shop").Get(c.ctx, "once", metav1.GetOptions{})
	if err != nil || job.Spec.Template.Annotations[Annotation] != "kernel://db" {
		t.Errorf("Job: %v, %v", job.Spec.Template.Annotations, err)
	}
	cron, err := c.api.BatchV1().CronJobs("shop").Get(c.ctx, "nightly", metav1.GetOptions{})
	if err != nil || cron.Spec.JobTemplate.Spec.Template.Annotations[Annotation] != "kernel://db" {
		t.Errorf("CronJob: %v, %v", cron.Spec.JobTemplate.Spec.Template.Annotations, err)
	}
}

// replicas: each has a certificate that API servers trust, also after the authority was lost.
func (c *cluster) replicas() {
	t := c.t
	bundle := func() []byte {
		m, err := c.api.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(c.ctx, "highwire", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range m.Webhooks[1:] {
			if !bytes.Equal(w.ClientConfig.CABundle, m.Webhooks[0].ClientConfig.CABundle) {
				return nil
			}
		}
		return m.Webhooks[0].ClientConfig.CABundle
	}
	trusted := func() error {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(bundle())
		for _, name := range c.names {
			conn, err := tls.Dial("tcp", name, &tls.Config{RootCAs: roots, ServerName: "highwire-webhook.highwire.svc", MinVersion: tls.VersionTLS13})
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	}
	c.eventually("both replicas are trusted", trusted)
	before := bundle()
	secret, err := c.api.CoreV1().Secrets("highwire").Get(c.ctx, "highwire-webhook", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(secret.Data) != 2 {
		t.Errorf("the Secret has %d entries, want certificates and keys", len(secret.Data))
	}
	secret.Data = nil
	if _, err := c.api.CoreV1().Secrets("highwire").Update(c.ctx, secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("a new authority", func() error {
		if bytes.Equal(bundle(), before) {
			return fmt.Errorf("still the old bundle")
		}
		return trusted()
	})
	c.eventually("pods are admitted again", func() error {
		_, err := c.pod("shop", "after", "annotations: {networkservicemesh.io: kernel://db}", "")
		return err
	})
}

// rights: the webhook's service account may no more than it needs.
func (c *cluster) rights(k *kubetest.Cluster) {
	t := c.t
	webhook, err := kubernetes.NewForConfig(k.ServiceAccount("highwire", "highwire-webhook"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := webhook.CoreV1().Secrets("highwire").List(c.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("it may list Secrets: %v", err)
	}
	if _, err := webhook.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("it may list pods: %v", err)
	}
}
