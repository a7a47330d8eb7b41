package registry

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	registryapi "highwire/controlplane/api/registry"
	"highwire/controlplane/kubetest"
	"highwire/vppapi/fault"
)

// agentNamespace and agentAccount are those of deploy/registry.
const agentNamespace, agentAccount = "highwire", "highwire"

// manifests are applied to a cluster before agents use it.
var manifests = []string{"../../deploy/crds/networkservices.yaml", "../../deploy/crds/networkserviceendpoints.yaml", "../../deploy/registry/roles.yaml"}

// kube is a real Kubernetes API with what deploy/ gives it.
type kube struct {
	*kubetest.Cluster
	t       *testing.T
	ctx     context.Context
	kubectl *kubetest.Client
}

func startKubernetes(t *testing.T) *kube {
	t.Helper()
	k := &kube{Cluster: kubetest.Start(t), t: t}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	k.ctx, k.kubectl = ctx, kubetest.NewClient(t, k.Admin())
	for _, name := range []string{agentNamespace, "elsewhere"} {
		k.apply("", "{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")
	}
	for _, file := range manifests {
		k.kubectl.ApplyFile(ctx, t, "", file)
	}
	return k
}

func (k *kube) apply(namespace, manifest string) {
	k.t.Helper()
	if err := k.kubectl.Apply(k.ctx, namespace, []byte(manifest)); err != nil {
		k.t.Fatalf("%v\n%s", err, manifest)
	}
}

// store opens a store as the API's user, which deletes expired endpoints soon.
func (k *kube) store(api *rest.Config) *Kubernetes {
	k.t.Helper()
	s, err := OpenKubernetes(KubernetesConfig{API: api, Namespace: agentNamespace, linger: 500 * time.Millisecond})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { _ = s.Close() })
	return s
}

// open opens an agent's store, with no more rights than deploy/ gives it, and waits until it follows.
func (k *kube) open() *Kubernetes {
	k.t.Helper()
	s := k.store(k.ServiceAccount(agentNamespace, agentAccount))
	follows(k.t, s)
	return s
}

func (k *kube) nodes(m *mesh, names ...string) (nodes []*node) {
	k.t.Helper()
	for _, name := range names {
		nodes = append(nodes, m.nodeOver(m.source("/"+name), k.open()))
	}
	return nodes
}

// objects are those in the API that hold an entry of the name.
func (k *kube) objects(name string) (found []unstructured.Unstructured) {
	k.t.Helper()
	for _, resource := range []string{"networkservices", "networkserviceendpoints"} {
		list, err := k.kubectl.Interface.Resource(group.WithResource(resource)).List(k.ctx, metav1.ListOptions{})
		if err != nil {
			k.t.Fatal(err)
		}
		for _, o := range list.Items {
			if of, _, _ := unstructured.NestedString(o.Object, "spec", "name"); of == name {
				found = append(found, o)
			}
		}
	}
	return found
}

// remove deletes as kubectl does.
func (k *kube) remove(namespace, resource, name string) {
	k.t.Helper()
	if err := k.kubectl.Interface.Resource(group.WithResource(resource)).Namespace(namespace).Delete(k.ctx, name, metav1.DeleteOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

func TestKubernetesThreeAgents(t *testing.T) {
	t.Parallel()
	k, m := startKubernetes(t), newMesh(t)
	nodes := k.nodes(m, "a", "b", "c")
	threeAgents(t, m, nodes)
	oneOwner(t, m, nodes)
}

// While the API is away agents go on with what they have and take registrations; when it is back everybody has them.
func TestKubernetesRestarts(t *testing.T) {
	t.Parallel()
	k, m := startKubernetes(t), newMesh(t)
	nodes := k.nodes(m, "a", "b")
	a, b := nodes[0], nodes[1]
	nse := m.source("/nse")
	a.register(nse, "before", "s")
	b.sees("before", withURL(a.public))
	k.StopAPI()
	a.register(nse, "meanwhile", "s")
	if _, err := b.reg.Endpoint(m.timeout(time.Minute), "before"); err != nil {
		t.Errorf("while the API is away: %v", err)
	}
	brief := &registryapi.NetworkServiceEndpoint{Name: "brief", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1", ExpirationTime: inSeconds(2)}
	if err := a.store.PutEndpoint(k.ctx, brief); err != nil {
		t.Fatal(err)
	}
	a.sees("brief", nil)
	k.StartAPI()
	b.sees("meanwhile", withURL(a.public))
	b.register(nse, "after", "s")
	a.sees("after", withURL(b.public))

	// A watch from before the API's memory, as after a long time away, ends, so that all is read anew.
	store := b.store.(*Kubernetes)
	err := store.endpointObjects.hearFrom(k.ctx, "1")
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) || !away(err) {
		t.Errorf("a watch from the first version: %v", err)
	}
	store.resync(err)
	a.register(nse, "anew", "s")
	b.sees("anew", withURL(a.public))
}

// What an agent that died had registered is hidden in time and deleted by another. A live agent's is not.
func TestKubernetesExpiry(t *testing.T) {
	t.Parallel()
	k, m := startKubernetes(t), newMesh(t)
	dead, alive := k.open(), k.nodes(m, "alive")[0]
	short := &registryapi.NetworkServiceEndpoint{Name: "short", NetworkServiceNames: []string{"s"}, Url: "tcp://127.0.0.1:1", ExpirationTime: inSeconds(3)}
	if err := dead.PutEndpoint(k.ctx, short); err != nil {
		t.Fatal(err)
	}
	k.apply("elsewhere", `{apiVersion: networkservicemesh.io/v1, kind: NetworkServiceEndpoint, metadata: {name: by-hand},
spec: {name: by-hand, network_service_names: [s], url: "tcp://127.0.0.1:1", expiration_time: {seconds: `+fmt.Sprint(short.ExpirationTime.Seconds)+`}}}`)
	alive.sees("short", withURL(short.Url))
	alive.sees("by-hand", withURL(short.Url))
	_ = dead.Close()
	alive.sees("short", nil)
	alive.sees("by-hand", nil)
	k.deleted("networkserviceendpoints", "short")
	if len(k.objects("by-hand")) != 1 {
		t.Error("an endpoint that people made was deleted by an agent")
	}
}

// deleted waits until the object of the agents is not there.
func (k *kube) deleted(resource, name string) {
	k.t.Helper()
	objects := k.kubectl.Interface.Resource(group.WithResource(resource)).Namespace(agentNamespace)
	list, err := objects.List(k.ctx, metav1.ListOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	if !slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool { return o.GetName() == name }) {
		return
	}
	ctx, cancel := context.WithTimeout(k.ctx, time.Minute)
	defer cancel()
	events, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		k.t.Fatal(err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if o, ok := event.Object.(*unstructured.Unstructured); ok && event.Type == "DELETED" && o.GetName() == name {
			return
		}
	}
	k.t.Errorf("%s %s was not deleted", resource, name)
}

// What people apply is found in any namespace and under any name; agents do not change it.
func TestKubernetesByHand(t *testing.T) {
	t.Parallel()
	k, m := startKubernetes(t), newMesh(t)
	n := k.nodes(m, "a")[0]
	k.apply("elsewhere", `
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata:
  name: my-service
spec:
  payload: ETHERNET
  matches:
    - source_selector:
      fallthrough: true
      routes:
        - destination_selector: {app: near, nodeName: "{{.nodeName}}"}
          weight: 3
    - metadata:
        labels: {capability: "true"}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata:
  name: upper
spec:
  name: Upper/Case
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata:
  name: my-endpoint
spec:
  network_service_names: [my-service]
  network_service_labels:
    my-service:
      labels: {app: near}
  url: tcp://192.0.2.1:5001
`)
	n.sees("my-endpoint", func(e *registryapi.NetworkServiceEndpoint) bool {
		return e.Url == "tcp://192.0.2.1:5001" && e.ExpirationTime == nil && e.NetworkServiceLabels["my-service"].GetLabels()["app"] == "near"
	})
	seen(k.ctx, t, n.store.WatchServices, func() bool {
		list, err := n.store.Services(k.ctx)
		return slices.Equal(names(list, err), []string{"Upper/Case", "my-service"})
	})
	s, err := n.reg.FindService(k.ctx, "my-service")
	if err != nil || s.Payload != "ETHERNET" || len(s.Matches) != 2 || !s.Matches[0].Fallthrough || s.Matches[0].Routes[0].Weight != 3 ||
		s.Matches[0].Routes[0].DestinationSelector["nodeName"] != "{{.nodeName}}" || s.Matches[1].Metadata.Labels["capability"] != "true" {
		t.Errorf("my-service: %v, %v", s, err)
	}
	if s, err := n.reg.FindService(k.ctx, "Upper/Case"); err != nil || s.Payload != "IP" {
		t.Errorf("without a payload: %v, %v", s, err)
	}
	nse := m.source("/nse")
	if _, err := m.services(n.target, nse).Register(k.ctx, &registryapi.NetworkService{Name: "my-service", Payload: "ETHERNET"}); !isKind(err, fault.Conflict) || !strings.Contains(err.Error(), "namespace elsewhere") {
		t.Errorf("changing by an agent: %v", err)
	}
	if _, err := m.endpoints(n.target, nse).Unregister(k.ctx, &registryapi.NetworkServiceEndpoint{Name: "my-endpoint"}); !isKind(err, fault.Conflict) {
		t.Errorf("deleting by an agent: %v", err)
	}

	// The oldest of two has the name.
	k.apply(agentNamespace, "{apiVersion: networkservicemesh.io/v1, kind: NetworkService, metadata: {name: my-service}, spec: {payload: IP}}")
	if s, err := n.reg.FindService(k.ctx, "my-service"); err != nil || s.Payload != "ETHERNET" {
		t.Errorf("the first of two: %v, %v", s, err)
	}
	k.remove("elsewhere", "networkservices", "my-service")
	seen(k.ctx, t, n.store.WatchServices, func() bool {
		s, err := n.reg.FindService(k.ctx, "my-service")
		return err == nil && s.Payload == "IP"
	})
	k.remove("elsewhere", "networkserviceendpoints", "my-endpoint")
	n.sees("my-endpoint", nil)
}

// Names that Kubernetes does not allow, or whose object's name another has, are kept in the spec.
func TestKubernetesNames(t *testing.T) {
	t.Parallel()
	k := startKubernetes(t)
	s := k.open()
	k.apply(agentNamespace, "{apiVersion: networkservicemesh.io/v1, kind: NetworkService, metadata: {name: taken}, spec: {name: other}}")
	seen(k.ctx, t, s.WatchServices, func() bool {
		list, err := s.Services(k.ctx)
		return slices.Equal(names(list, err), []string{"other"})
	})
	for _, name := range []string{"plain", "Upper/Case", "upper/case", "taken", strings.Repeat("long", 63), "…"} {
		for _, payload := range []string{"IP", "ETHERNET"} {
			if err := s.PutService(k.ctx, &registryapi.NetworkService{Name: name, Payload: payload}); err != nil {
				t.Errorf("%q: %v", name, err)
			}
		}
		found := k.objects(name)
		if len(found) != 1 || (found[0].GetName() == name) != (name == "plain") && len(name) < 200 {
			t.Errorf("%q: %d objects, %v", name, len(found), found)
		}
		if err := s.DeleteService(k.ctx, name); err != nil || len(k.objects(name)) != 0 {
			t.Errorf("%q is not deleted: %v", name, err)
		}
	}
}

// What cannot be is refused, and the answer names the field.
func TestKubernetesValidation(t *testing.T) {
	t.Parallel()
	k := startKubernetes(t)
	service, endpoint := "{apiVersion: networkservicemesh.io/v1, kind: NetworkService, metadata: {name: x}, spec: {%s}}",
		`{apiVersion: networkservicemesh.io/v1, kind: NetworkServiceEndpoint, metadata: {name: x}, spec: {network_service_names: [s], url: "tcp://192.0.2.1:1", %s}}`
	for _, c := range []struct{ manifest, spec, want string }{
		{service, "payload: MPLS", `spec.payload: Unsupported value: "MPLS": supported values: "ETHERNET", "IP"`},
		{service, "matchs: []", ".spec.matchs: field not declared in schema"},
		{service, "matches: [{routes: [{destination_selector: {a: 1}}]}]", "spec.matches[0].routes[0].destination_selector.a: expected string"},
		{service, "matches: [{routes: [{weight: -1}]}]", "spec.matches[0].routes[0].weight"},
		{service, "matches: [{fallthrough: maybe}]", "spec.matches[0].fallthrough"},
		{service, "name: " + strings.Repeat("x", 254), "spec.name: Too long"},
		{endpoint, "network_service_names: []", "spec.network_service_names"},
		{endpoint, `url: ""`, "spec.url"},
		{endpoint, "expiration_time: tomorrow", "spec.expiration_time"},
		{endpoint, "expiration_time: {seconds: 1, nanos: 1000000000}", "spec.expiration_time.nanos"},
		{endpoint, "network_service_labels: {s: {a: b}}", ".spec.network_service_labels.s.a: field not declared in schema"},
		{"{apiVersion: networkservicemesh.io/v1, kind: NetworkServiceEndpoint, metadata: {name: x}, spec: {%s}}", `url: "tcp://192.0.2.1:1"`, "spec.network_service_names: Required value"},
	} {
		manifest := fmt.Sprintf(c.manifest, c.spec)
		if err := k.kubectl.Apply(k.ctx, agentNamespace, []byte(manifest)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n%v, want %s", c.spec, err, c.want)
		}
	}
}

// Each right of deploy/registry is needed: without it something is denied.
func TestKubernetesRights(t *testing.T) {
	t.Parallel()
	k := startKubernetes(t)
	account := k.ServiceAccount(agentNamespace, agentAccount)
	full, err := os.ReadFile("../../deploy/registry/roles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	verbs := 0
	for _, role := range readRoles(t, full) {
		for _, verb := range role.Rules[0].Verbs {
			verbs++
			t.Run(verb, func(t *testing.T) {
				less := role.DeepCopy()
				less.Rules[0].Verbs = slices.DeleteFunc(less.Rules[0].Verbs, func(v string) bool { return v == verb })
				manifest, err := yaml.Marshal(less)
				if err != nil {
					t.Fatal(err)
				}
				k.apply("", string(manifest))
				defer k.kubectl.ApplyFile(k.ctx, t, "", "../../deploy/registry/roles.yaml")
				if err := k.denied(account, verb); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "cannot "+verb+" resource") || !strings.Contains(err.Error(), "deploy/registry") {
					t.Errorf("without %s: %v", verb, err)
				}
			})
		}
	}
	if verbs != 6 {
		t.Errorf("%d verbs in deploy/registry", verbs)
	}
}

// readRoles are the Roles and ClusterRoles of some YAML.
func readRoles(t *testing.T, manifests []byte) (roles []*rbacv1.Role) {
	t.Helper()
	list, err := kubetest.Objects(manifests)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		if !strings.HasSuffix(o.GetKind(), "Role") {
			continue
		}
		role := &rbacv1.Role{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
			t.Fatal(err)
		}
		roles = append(roles, role)
	}
	return roles
}

// denied does all that needs the verb as the account, whose rights may take a moment to be what they are to be.
func (k *kube) denied(account *rest.Config, verb string) (err error) {
	for k.ctx.Err() == nil && err == nil {
		err = k.exercise(account)
	}
	return err
}

func (k *kube) exercise(account *rest.Config) error {
	s, err := OpenKubernetes(KubernetesConfig{API: account, Namespace: agentNamespace})
	if err != nil {
		return err
	}
	defer s.Close()
	o := s.serviceObjects
	version, err := o.readAll(k.ctx)
	if err != nil {
		return err
	}
	watching, cancel := context.WithTimeout(k.ctx, time.Second)
	defer cancel()
	if err := o.hearFrom(watching, version); !fault.Is(err, fault.Timeout) && watching.Err() == nil {
		return err
	}
	v := &registryapi.NetworkService{Name: "rights", Payload: "IP"}
	for range 2 {
		if err := o.write(k.ctx, "", v); err != nil {
			return err
		}
	}
	x, _, _ := o.claim("rights", "")
	if err := o.look(k.ctx, keyOf(x.Unstructured)); err != errChanged {
		return err
	}
	return o.remove(k.ctx, "", "rights")
}

// FuzzKubernetesDecode: whatever stands in an object, reading it does not panic, and what is read can be written and read again.
func FuzzKubernetesDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","payload":"IP","matches":[{"source_selector":null,"routes":[{"weight":3}]}]}`))
	f.Add([]byte(`{"network_service_names":["s"],"url":"tcp://127.0.0.1:1","expiration_time":{"seconds":1,"nanos":2}}`))
	f.Fuzz(func(t *testing.T, spec []byte) {
		decodes(t, serviceSchema, spec)
		decodes(t, endpointSchema, spec)
	})
}

func decodes[T entry](t *testing.T, s schema[T], spec []byte) {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(spec, &o.Object); err != nil {
		return
	}
	o.Object = map[string]any{"metadata": map[string]any{"name": "object"}, "spec": o.Object}
	v, err := s.decode(o)
	if err != nil {
		return
	}
	written := &unstructured.Unstructured{}
	if err := s.encode(v, written); err != nil {
		t.Fatal(err)
	}
	if again, err := s.decode(written); err != nil || !proto.Equal(v, again) {
		t.Errorf("%v became %v, %v", v, again, err)
	}
	if name := objectName(v.GetName()); len(validation.IsDNS1123Subdomain(name)) > 0 {
		t.Errorf("object name %q of %q", name, v.GetName())
	}
}
