package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"

	registryapi "highwire/controlplane/api/registry"
	"highwire/mechanisms"
	"highwire/vppapi/fault"
)

// group is the API group of the mesh's kinds, which deploy/crds defines.
var group = kubeschema.GroupVersion{Group: "networkservicemesh.io", Version: "v1"}

// schema is how entries are written as objects of a kind: the spec is our message, by the names of its fields.
type schema[T entry] struct {
	kindName string
	resource kubeschema.GroupVersionResource
	fresh    func() T
	// complete fills in what people may leave out.
	complete func(v T, object string)
	check    func(T) error
}

var serviceSchema = schema[*registryapi.NetworkService]{
	kindName: "NetworkService",
	resource: group.WithResource("networkservices"),
	fresh:    func() *registryapi.NetworkService { return new(registryapi.NetworkService) },
	complete: func(s *registryapi.NetworkService, object string) {
		s.Name, s.Payload = cmp.Or(s.Name, object), cmp.Or(s.Payload, string(mechanisms.IP))
	},
	check: checkService,
}

var endpointSchema = schema[*registryapi.NetworkServiceEndpoint]{
	kindName: "NetworkServiceEndpoint",
	resource: group.WithResource("networkserviceendpoints"),
	fresh:    func() *registryapi.NetworkServiceEndpoint { return new(registryapi.NetworkServiceEndpoint) },
	complete: func(e *registryapi.NetworkServiceEndpoint, object string) { e.Name = cmp.Or(e.Name, object) },
	check:    checkEndpoint,
}

// decode reads an object.
func (s schema[T]) decode(object *unstructured.Unstructured) (v T, err error) {
	data, err := json.Marshal(object.Object["spec"])
	if err != nil {
		return v, fault.New(fault.Invalid, "spec: %w", err)
	}
	read := s.fresh()
	if err := json.Unmarshal(data, read); err != nil {
		return v, fault.New(fault.Invalid, "spec: %w", err)
	}
	s.complete(read, object.GetName())
	if err := s.check(read); err != nil {
		return v, err
	}
	return read, nil
}

// encode writes v into an object, and leaves what else is in it.
func (s schema[T]) encode(v T, object *unstructured.Unstructured) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Invalid, "%s: %w", v.GetName(), err)
	}
	var spec map[string]any
	if err := kubejson.Unmarshal(data, &spec); err != nil {
		return fault.New(fault.Invalid, "%s: %w", v.GetName(), err)
	}
	if object.Object == nil {
		object.Object = map[string]any{}
	}
	object.SetGroupVersionKind(group.WithKind(s.kindName))
	object.Object["spec"] = spec
	delete(object.Object, "status")
	if t, ok := expiration(v); ok {
		object.Object["status"] = map[string]any{"expires": t.UTC().Format(time.RFC3339)}
	}
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[managedBy] = manager
	object.SetLabels(labels)
	return nil
}

// objectName is the name of the object for an entry: its own where Kubernetes allows that.
func objectName(name string) string {
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	return hashedName(name)
}

// hashedName is a name that Kubernetes allows: what can be kept of the entry's, and a hash of it.
func hashedName(name string) string {
	kept := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	kept = strings.Trim(kept[:min(len(kept), maxKept)], "-")
	hash := sha256.Sum256([]byte(name))
	return strings.TrimLeft(kept+"-"+hex.EncodeToString(hash[:8]), "-")
}

// maxKept is how much of an entry's name goes into a hashed one.
const maxKept = 200

func kubernetesError(err error) error {
	switch {
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return fault.New(fault.Denied, "kubernetes: %w; give the agent's account the roles of deploy/registry", err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return fault.New(fault.Invalid, "kubernetes: %w", err)
	case apierrors.IsNotFound(err):
		return fault.New(fault.Unavailable, "kubernetes: %w; apply deploy/crds, and see that the agent's namespace exists", err)
	}
	return fault.New(fault.KindOr(err, fault.Unavailable), "kubernetes: %w", err)
}
