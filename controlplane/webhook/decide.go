package webhook

import (
	"encoding/json"
	"fmt"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"highwire/vppapi/fault"
)

// Object is what is to be admitted.
type Object struct {
	// Kind such as Pod or Deployment.
	Kind string
	// Raw is the object as JSON.
	Raw []byte
	// Update: it was there before and is to change.
	Update bool
	// Namespace is the value of the Annotation of the object's namespace, empty where it has none.
	Namespace string
}

// Decision is what becomes of an object that is not refused.
type Decision struct {
	// Patch is what is added to it, empty to leave it alone.
	Patch []jsonpatch.Operation
	// Does says in a few words what, or why nothing.
	Does string
	// Warnings are for whoever applies the object.
	Warnings []string
}

// Kinds that are decided about.
var templates = map[string]string{
	"Deployment": "/spec/template", "DaemonSet": "/spec/template", "StatefulSet": "/spec/template", "ReplicaSet": "/spec/template",
	"Job": "/spec/template", "CronJob": "/spec/jobTemplate/spec/template",
}

// Decide says what becomes of an object. An error refuses it, and is fault.Invalid; where the annotation is at fault a
// *client.SyntaxError in it says where.
func (s *Settings) Decide(o Object) (Decision, error) {
	switch {
	case o.Kind == "Pod":
		var pod corev1.Pod
		if err := json.Unmarshal(o.Raw, &pod); err != nil {
			return Decision{}, fault.New(fault.Invalid, "pod: %w", err)
		}
		return s.pod(&pod, o.Namespace)
	case o.Kind == "Namespace":
		return decideNamespace(o.Raw)
	case templates[o.Kind] != "":
		return s.workload(o)
	}
	return Decision{Does: "left alone: no pods come from a " + o.Kind}, nil
}

// decideNamespace only looks: its pods are what changes.
func decideNamespace(raw []byte) (Decision, error) {
	var n metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &n); err != nil {
		return Decision{}, fault.New(fault.Invalid, "namespace: %w", err)
	}
	services, err := Parse(n.Annotations[Annotation])
	switch {
	case n.DeletionTimestamp != nil:
		return Decision{Does: "left alone: it is being deleted"}, nil
	case err != nil:
		return Decision{}, err
	case len(services) == 0:
		return Decision{Does: "left alone: no annotation"}, nil
	}
	return Decision{Does: fmt.Sprintf("pods made in it from now on get %s", counted(len(services)))}, nil
}

func counted(n int) string {
	if n == 1 {
		return "1 network service"
	}
	return fmt.Sprintf("%d network services", n)
}

// pod decides about a pod in a namespace with the given annotation.
func (s *Settings) pod(pod *corev1.Pod, namespace string) (Decision, error) {
	value, own := pod.Annotations[Annotation]
	if !own {
		value = namespace
	}
	services, err := Parse(value)
	switch {
	case err != nil && !own:
		return Decision{}, fmt.Errorf("the namespace's %w", err)
	case err != nil:
		return Decision{}, err
	case len(services) == 0:
		return Decision{Does: "left alone: no annotation"}, nil
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return Decision{Does: "left alone: the kubelet runs it from a file"}, nil
	}
	there, err := s.injected(&pod.Spec)
	switch {
	case err != nil:
		return Decision{}, err
	case there:
		return Decision{Does: "left alone: its clients are there already"}, nil
	}
	if why := unfit(&pod.Spec); why != "" {
		if own {
			return Decision{}, fault.New(fault.Invalid, "annotation %s on a pod that %s: take one of them away", Annotation, why)
		}
		return Decision{
			Does:     "left alone: it " + why,
			Warnings: []string{fmt.Sprintf("the namespace's annotation %s is not for this pod: it %s", Annotation, why)},
		}, nil
	}
	d := Decision{Does: fmt.Sprintf("gets %s by %s and %s", counted(len(services)), s.InitName, s.SidecarName)}
	var p patch
	hasAnnotations, hasLabels := pod.Annotations != nil, pod.Labels != nil
	if !own {
		p.key("/metadata/annotations", &hasAnnotations, Annotation, value)
	}
	for _, label := range s.missing(pod.Labels) {
		p.key("/metadata/labels", &hasLabels, label, s.Labels[label])
	}
	if pod.Spec.Volumes == nil {
		p.add("/spec/volumes", s.volumes())
	} else {
		for _, v := range s.volumes() {
			p.add("/spec/volumes/-", v)
		}
	}
	// First of all, so that other init containers find the interfaces too.
	first := []corev1.Container{s.initContainer(value, services)}
	if s.Sidecar == Native {
		first = append(first, s.sidecar(value, services))
	}
	if pod.Spec.InitContainers == nil {
		p.add("/spec/initContainers", first)
	} else {
		for i, c := range first {
			p.add(fmt.Sprintf("/spec/initContainers/%d", i), c)
		}
	}
	if s.Sidecar == Container {
		p.add("/spec/containers/-", s.sidecar(value, services))
		if pod.Spec.RestartPolicy == corev1.RestartPolicyNever || pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			d.Warnings = append(d.Warnings, "this pod will not complete by itself: its sidecar is a plain container, as before Kubernetes 1.29")
		}
	}
	for _, service := range services {
		if !strings.EqualFold(service.Mechanism, "KERNEL") {
			d.Warnings = append(d.Warnings, "service "+service.Name+": the sidecar itself is the application at the end of a memif")
		}
	}
	d.Patch = p
	return d, nil
}

// injected tells whether our containers are there. A name that is taken by something else is an error.
func (s *Settings) injected(spec *corev1.PodSpec) (bool, error) {
	names := map[string]bool{}
	for _, c := range append(spec.InitContainers[:len(spec.InitContainers):len(spec.InitContainers)], spec.Containers...) {
		names[c.Name] = true
	}
	for _, name := range []string{s.InitName, s.SidecarName} {
		if names[name] && !(names[s.InitName] && names[s.SidecarName]) {
			return false, fault.New(fault.Invalid, "container name %q is the one of a client of the mesh: give the pod's own container another", name)
		}
	}
	if names[s.InitName] {
		return true, nil
	}
	for _, v := range spec.Volumes {
		if v.Name == spiffeVolume || v.Name == socketsVolume {
			return false, fault.New(fault.Invalid, "volume name %q is the one of a client of the mesh: give the pod's own volume another", v.Name)
		}
	}
	return false, nil
}

// unfit says why a pod cannot have interfaces of its own; empty if it can.
func unfit(spec *corev1.PodSpec) string {
	switch {
	case spec.HostNetwork:
		return "uses the node's network (hostNetwork), which would get the interfaces for everybody"
	case spec.OS != nil && spec.OS.Name == corev1.Windows:
		return "runs on Windows"
	}
	return ""
}
