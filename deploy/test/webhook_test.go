package deploy

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"highwire/controlplane/kubetest"
	"highwire/controlplane/webhook"
)

// called are the manifests of deploy/webhook with the address that the API server calls in the place of their Service, which
// nothing routes here.
func called(t *testing.T, address string) (manifests []byte) {
	t.Helper()
	list, err := kubetest.Objects(render(t, filepath.Join(root, "webhook")))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, hook := range hooks {
			client := hook.(map[string]any)["clientConfig"].(map[string]any)
			delete(client, "service")
			client["url"] = "https://" + address + "/mutate"
		}
		if len(hooks) > 0 {
			o.Object["webhooks"] = hooks
		}
		manifest, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		manifests = append(append(manifests, "---\n"...), manifest...)
	}
	return manifests
}

// The API server calls the webhook for real pods, which get their containers; the webhook has its own rights only.
func TestWebhook(t *testing.T) {
	c := kubetest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	kubectl := kubetest.NewClient(t, c.Admin())
	apply := func(manifest string) error { return kubectl.Apply(ctx, "shop", []byte(manifest)) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, manifest := range []string{
		"{apiVersion: v1, kind: Namespace, metadata: {name: highwire}}", string(called(t, l.Addr().String())),
		"{apiVersion: v1, kind: Namespace, metadata: {name: shop}}", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}",
		`{apiVersion: v1, kind: Namespace, metadata: {name: mesh, annotations: {networkservicemesh.io: "kernel://all/nsm-0"}}}`,
		"{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: mesh}}",
	} {
		if err := apply(manifest); err != nil {
			t.Fatal(err)
		}
	}
	settings := webhook.Defaults()
	settings.Image = "highwire:test"
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- webhook.Run(running, webhook.Config{
			Settings: settings, API: c.ServiceAccount("highwire", "highwire-webhook"), Listener: l,
			Namespace: "highwire", Secret: "highwire-webhook", Configuration: "highwire", Names: []string{"127.0.0.1"},
		})
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the webhook: %v", err)
		}
	}()
	trusted(ctx, t, kubectl)

	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: NAME, namespace: NAMESPACE, annotations: {ANNOTATIONS}}, spec: {containers: [{name: app, image: app}]}}`
	named := func(name, namespace, annotations string) string {
		return strings.NewReplacer("NAMESPACE", namespace, "NAME", name, "ANNOTATIONS", annotations).Replace(pod)
	}
	for _, p := range []struct {
		name, namespace, annotations string
		joined                       string // what its clients ask for
	}{
		{"joined", "shop", `networkservicemesh.io: "kernel://my-service/nsm-1?app=web"`, "kernel://my-service/nsm-1?app=web"},
		{"by-namespace", "mesh", "", "kernel://all/nsm-0"},
		{"plain", "shop", "", ""},
		{"excepted", "mesh", `networkservicemesh.io: ""`, ""},
	} {
		// A second time nothing is added.
		for range 2 {
			if err := apply(named(p.name, p.namespace, p.annotations)); err != nil {
				t.Fatalf("%s: %v", p.name, err)
			}
		}
		var got corev1.Pod
		read(ctx, t, kubectl, corev1.SchemeGroupVersion.WithResource("pods"), p.namespace, p.name, &got)
		want := 0
		if p.joined != "" {
			want = 2 // one that connects, and one that stays
		}
		if len(got.Spec.InitContainers) != want || len(got.Spec.Containers) != 1 {
			t.Errorf("%s: %d init containers and %d containers", p.name, len(got.Spec.InitContainers), len(got.Spec.Containers))
			continue
		}
		for _, container := range got.Spec.InitContainers {
			if container.Image != settings.Image || !strings.Contains(strings.Join(append(container.Command, container.Args...), " "), p.joined) {
				t.Errorf("%s: container %s: %s %q %q", p.name, container.Name, container.Image, container.Command, container.Args)
			}
		}
	}
	for annotation, want := range map[string]string{
		"kernel://": "character 10", "pigeon://my-service": "character 1: the mechanism",
	} {
		if err := apply(named("wrong", "shop", `networkservicemesh.io: "`+annotation+`"`)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", annotation, err, want)
		}
	}
	if err := apply(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, annotations: {networkservicemesh.io: "kernel://my-service/nsm-1"}},
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app, image: app}]}}}}`); err != nil {
		t.Fatal(err)
	}
	var web unstructured.Unstructured
	read(ctx, t, kubectl, schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "shop", "web", &web.Object)
	if got, _, _ := unstructured.NestedString(web.Object, "spec", "template", "metadata", "annotations", webhook.Annotation); got != "kernel://my-service/nsm-1" {
		t.Errorf("the deployment's template has %q", got)
	}
}

// trusted waits until the API server has something to trust the webhook by.
func trusted(ctx context.Context, t *testing.T, kubectl *kubetest.Client) {
	t.Helper()
	configurations := kubectl.Interface.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"})
	events, err := configurations.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=highwire"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		o, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Error {
			t.Fatalf("%v", event)
		}
		hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		if hook, ok := hooks[0].(map[string]any); ok {
			if bundle, _, _ := unstructured.NestedString(hook, "clientConfig", "caBundle"); bundle != "" {
				return
			}
		}
	}
	t.Fatal("the webhook has published no authority")
}

// read gets an object into out.
func read(ctx context.Context, t *testing.T, kubectl *kubetest.Client, resource schema.GroupVersionResource, namespace, name string, out any) {
	t.Helper()
	o, err := kubectl.Interface.Resource(resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := out.(*map[string]any); ok {
		*m = o.Object
		return
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, out); err != nil {
		t.Fatal(err)
	}
}
