// Package deploy holds what deploy/ gives to a cluster against a real Kubernetes API.
package deploy

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"highwire/controlplane/kubetest"
)

// root is deploy/.
const root = ".."

// kustomizations are the folders that kubectl apply -k takes: all but components.
func kustomizations(t *testing.T) (folders []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "kustomization.yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(text), "kind: Component") {
			folders = append(folders, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return folders
}

// render is what kubectl apply -k applies, in its order.
func render(t *testing.T, folder string) []byte {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	options.Reorder = krusty.ReorderOptionLegacy
	objects, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := objects.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return manifests
}

// before is what a cluster has that takes all of deploy/: its namespace with the account that a controller makes, and the kinds of
// the Prometheus operator.
const before = `
apiVersion: v1
kind: Namespace
metadata: {name: highwire}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: highwire}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: podmonitors.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// Every folder can be applied by server-side apply, and again; and the API takes the pods that its workloads make.
func TestApply(t *testing.T) {
	c := kubetest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	kubectl := kubetest.NewClient(t, c.Admin())
	if err := kubectl.Apply(ctx, "", []byte(before)); err != nil {
		t.Fatal(err)
	}
	folders := kustomizations(t)
	for _, needed := range []string{"crds", "registry", "webhook", "overlays/all-in-one", "overlays/kubernetes"} {
		if !slices.Contains(folders, filepath.Join(root, needed)) {
			t.Errorf("no %s among %q", needed, folders)
		}
	}
	for _, folder := range folders {
		t.Run(strings.TrimPrefix(folder, root+"/"), func(t *testing.T) {
			manifests := render(t, folder)
			for range 2 {
				if err := kubectl.Apply(ctx, "default", manifests); err != nil {
					t.Fatal(err)
				}
			}
			list, err := kubetest.Objects(manifests)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range list {
				template, ok, _ := unstructured.NestedMap(o.Object, "spec", "template")
				if !ok {
					continue
				}
				pod := &unstructured.Unstructured{Object: template}
				pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
				pod.SetName(o.GetName())
				pods := kubectl.Interface.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(o.GetNamespace())
				if _, err := pods.Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
					t.Errorf("a pod of %s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
		})
	}
}
