package kubetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// Client does what kubectl does.
type Client struct {
	dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

// NewClient makes a Client of the config.
func NewClient(t testing.TB, config *rest.Config) *Client {
	t.Helper()
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &Client{Interface: objects, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(kinds))}
}

// Apply applies the objects of some YAML by server-side apply, validated strictly, in their order; those without a namespace go
// into the given one.
func (c *Client) Apply(ctx context.Context, namespace string, manifests []byte) error {
	list, err := Objects(manifests)
	if err != nil {
		return err
	}
	for _, o := range list {
		if err := c.apply(ctx, namespace, o); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// ApplyFile is Apply of a file; the test fails where that does.
func (c *Client) ApplyFile(ctx context.Context, t testing.TB, namespace, file string) {
	t.Helper()
	manifests, err := os.ReadFile(file)
	if err == nil {
		err = c.Apply(ctx, namespace, manifests)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func (c *Client) apply(ctx context.Context, namespace string, o *unstructured.Unstructured) error {
	resource, err := c.Resource(ctx, namespace, o)
	if err != nil {
		return err
	}
	data, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	force := true
	_, err = resource.Patch(ctx, o.GetName(), types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict})
	return err
}

// kindTime is how long a kind may take to be served after its definition.
const kindTime = time.Minute

// Resource is where objects of o's kind are, in o's namespace or else in the given one.
func (c *Client) Resource(ctx context.Context, namespace string, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	mapping, err := backoff.Retry(ctx, func() (*meta.RESTMapping, error) {
		mapping, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			c.mapper.Reset() // the kind's definition may have come since
		}
		return mapping, err
	}, backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxElapsedTime(kindTime))
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.Interface.Resource(mapping.Resource), nil
	}
	if o.GetNamespace() != "" {
		namespace = o.GetNamespace()
	}
	return c.Interface.Resource(mapping.Resource).Namespace(namespace), nil
}

// Objects are those of some YAML.
func Objects(manifests []byte) ([]*unstructured.Unstructured, error) {
	var list []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return list, nil
		case err != nil:
			return nil, err
		case len(o.Object) > 0:
			list = append(list, o)
		}
	}
}
