package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	admission "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	hooks "sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// memory is a Kubernetes API of one Secret, one configuration and some namespaces, which tells conflicts.
type memory struct {
	client.Client
	mu         sync.Mutex
	secret     corev1.Secret
	config     admissionv1.MutatingWebhookConfiguration
	version    int
	namespaces map[string]string // annotations
}

func newMemory() *memory {
	m := &memory{namespaces: map[string]string{"shop": "", "annotated": "kernel://db"}}
	m.config.Webhooks = make([]admissionv1.MutatingWebhook, 2)
	return m
}

func (m *memory) Get(_ context.Context, name types.NamespacedName, o client.Object, _ ...client.GetOption) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch o := o.(type) {
	case *corev1.Secret:
		m.secret.DeepCopyInto(o)
	case *admissionv1.MutatingWebhookConfiguration:
		m.config.DeepCopyInto(o)
	case *metav1.PartialObjectMetadata:
		annotation, ok := m.namespaces[name.Name]
		if !ok {
			return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name.Name)
		}
		o.Annotations = map[string]string{Annotation: annotation}
	}
	return nil
}

func (m *memory) Update(_ context.Context, o client.Object, _ ...client.UpdateOption) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var have client.Object = &m.secret
	if _, ok := o.(*admissionv1.MutatingWebhookConfiguration); ok {
		have = &m.config
	}
	if o.GetResourceVersion() != have.GetResourceVersion() {
		return apierrors.NewConflict(schema.GroupResource{}, o.GetName(), fmt.Errorf("version %s", o.GetResourceVersion()))
	}
	m.version++
	switch o := o.(type) {
	case *corev1.Secret:
		o.DeepCopyInto(&m.secret)
	case *admissionv1.MutatingWebhookConfiguration:
		o.DeepCopyInto(&m.config)
	}
	have.SetResourceVersion(fmt.Sprint(m.version))
	return nil
}

const testLife = 300 * time.Hour

func newKeeper(m *memory, now func() time.Time) *keeper {
	return &keeper{client: m, config: "highwire", names: []string{"localhost"}, life: testLife, now: now, log: slog.New(slog.DiscardHandler)}
}

// Replicas that start at once agree on one authority, and go on agreeing while it is renewed; none ever has a certificate that the
// configuration does not trust.
func TestKeepersAgree(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return at }
	m := newMemory()
	keepers := []*keeper{newKeeper(m, now), newKeeper(m, now), newKeeper(m, now)}
	if err := keepers[0].ready(); err == nil {
		t.Error("ready without a certificate")
	}
	for range 400 {
		var next time.Duration
		var round sync.WaitGroup
		results := make([]reconcile.Result, len(keepers))
		for i, k := range keepers {
			round.Go(func() {
				for range 20 { // a conflict is tried again
					var err error
					if results[i], err = k.Reconcile(t.Context(), reconcile.Request{}); err != nil {
						t.Error(err)
					}
					if results[i].RequeueAfter > time.Second {
						return
					}
				}
			})
		}
		round.Wait()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(m.config.Webhooks[1].ClientConfig.CABundle)
		for i, k := range keepers {
			if err := k.ready(); err != nil {
				t.Fatalf("at %s: %v", now(), err)
			}
			if _, err := k.current.Load().cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now(), DNSName: "localhost"}); err != nil {
				t.Fatalf("replica %d at %s: %v", i, now(), err)
			}
			if next == 0 || results[i].RequeueAfter < next {
				next = results[i].RequeueAfter
			}
		}
		mu.Lock()
		at = at.Add(next)
		mu.Unlock()
	}
	if passed := now().Sub(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)); passed < 2*testLife {
		t.Errorf("only %s passed", passed)
	}
	m.secret.Data = map[string][]byte{secretCerts: []byte("broken")}
	m.secret.Data[secretKeys] = m.secret.Data[secretCerts]
	if _, err := keepers[0].Reconcile(t.Context(), reconcile.Request{}); err != nil || keepers[0].ready() != nil {
		t.Errorf("after the Secret was emptied: %v", err)
	}
}

// A question as API servers ask it, over TLS, and its answer.
func TestServe(t *testing.T) {
	t.Parallel()
	m := newMemory()
	k := newKeeper(m, time.Now)
	if _, err := k.Reconcile(t.Context(), reconcile.Request{}); err != nil {
		t.Fatal(err)
	}
	f, registry := newFigures(k.expiry)
	hook, err := hooks.StandaloneWebhook(&hooks.Webhook{Handler: &admitter{
		settings: *settings(nil), cached: &memory{}, live: m, figures: f, log: slog.New(slog.DiscardHandler),
	}}, hooks.StandaloneOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server{l, hook, k, slog.New(slog.DiscardHandler)}.Start(ctx) }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.config.Webhooks[0].ClientConfig.CABundle)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}}
	defer func() {
		transport.CloseIdleConnections()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ask := func(kind, namespace, object, old string) *admission.AdmissionResponse {
		t.Helper()
		r := &admission.AdmissionRequest{UID: "1", Kind: metav1.GroupVersionKind{Version: "v1", Kind: kind}, Namespace: namespace, Operation: admission.Create,
			Object: runtime.RawExtension{Raw: []byte(object)}}
		if old != "" {
			r.Operation, r.OldObject.Raw = admission.Update, []byte(old)
		}
		text, err := json.Marshal(admission.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: r})
		if err != nil {
			t.Fatal(err)
		}
		answer, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Post("https://"+l.Addr().String()+"/mutate", "application/json", bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var review admission.AdmissionReview
		body, err := io.ReadAll(answer.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil || review.Response == nil {
			t.Fatalf("%v: %s", err, body)
		}
		return review.Response
	}
	const wrong = `{"metadata":{"annotations":{"networkservicemesh.io":"kernel://a, x"}}}`
	for name, test := range map[string]struct {
		kind, namespace, object, old string
		allowed, patched             bool
		says                         string
	}{
		"annotated":         {"Pod", "shop", `{"metadata":{"annotations":{"networkservicemesh.io":"kernel://a"}}}`, "", true, true, ""},
		"bare":              {"Pod", "shop", `{"metadata":{}}`, "", true, false, ""},
		"by its namespace":  {"Pod", "annotated", `{"metadata":{}}`, "", true, true, ""},
		"wrong":             {"Pod", "shop", wrong, "", false, false, "character 13"},
		"wrong before":      {"Deployment", "shop", wrong, wrong, true, false, ""},
		"wrong now":         {"Deployment", "shop", wrong, `{"metadata":{}}`, false, false, "character 13"},
		"no such namespace": {"Pod", "gone", `{"metadata":{}}`, "", false, false, "gone"},
		"other kind":        {"Secret", "shop", wrong, "", true, false, ""},
	} {
		r := ask(test.kind, test.namespace, test.object, test.old)
		if r.Allowed != test.allowed || (len(r.Patch) > 0) != test.patched || test.says != "" && !strings.Contains(r.Result.Message, test.says) {
			t.Errorf("%s: %+v", name, r)
		}
		if name == "wrong before" && len(r.Warnings) != 1 {
			t.Errorf("%s: warnings %q", name, r.Warnings)
		}
	}
	if n := testutil.ToFloat64(f.decisions.WithLabelValues("Pod", "patched")); n != 2 {
		t.Errorf("%v patched pods counted, want 2", n)
	}
	if all, err := registry.Gather(); err != nil || len(all) != 3 {
		t.Errorf("figures: %v, %v", all, err)
	}
}
