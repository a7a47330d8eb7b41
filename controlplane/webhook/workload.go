package webhook

import (
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"highwire/vppapi/fault"
)

// workload is what all kinds have in common that make pods from a template.
type workload struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Template    corev1.PodTemplateSpec `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// workload decides about one: its annotation is copied to the template, and goes from there when it goes from the workload. A
// template that has one of its own keeps it.
func (s *Settings) workload(o Object) (Decision, error) {
	var w workload
	if err := json.Unmarshal(o.Raw, &w); err != nil {
		return Decision{}, fault.New(fault.Invalid, "%s: %w", o.Kind, err)
	}
	template, at := &w.Spec.Template, templates[o.Kind]
	if o.Kind == "CronJob" {
		template = &w.Spec.JobTemplate.Spec.Template
	}
	switch {
	case w.DeletionTimestamp != nil:
		return Decision{Does: "left alone: it is being deleted"}, nil
	case metav1.GetControllerOfNoCopy(&w) != nil:
		// Another template than its owner's would have the owner make it again and again.
		return Decision{Does: "left alone: it is made by a " + metav1.GetControllerOfNoCopy(&w).Kind}, nil
	case o.Kind == "Job" && o.Update:
		return Decision{Does: "left alone: the template of a Job is fixed"}, nil
	}
	value, wanted := w.Annotations[Annotation]
	had, has := template.Annotations[Annotation]
	_, copied := template.Annotations[Copied]
	var d Decision
	var p patch
	hasAnnotations := template.Annotations != nil
	annotations := at + "/metadata/annotations"
	effective := value
	switch {
	case wanted && has && !copied:
		effective = had
		if had != value {
			d.Warnings = append(d.Warnings, fmt.Sprintf("the pod template's own annotation %s counts, not the %s's", Annotation, o.Kind))
		}
	case wanted && (!has || had != value):
		if !present(o.Raw, at+"/metadata") {
			p.add(at+"/metadata", map[string]any{})
		}
		p.key(annotations, &hasAnnotations, Annotation, value)
		p.key(annotations, &hasAnnotations, Copied, o.Kind)
	case !wanted && copied:
		if has {
			p.remove(annotations + "/" + escape(Annotation))
		}
		p.remove(annotations + "/" + escape(Copied))
	case !wanted:
		effective = had
	}
	// Refused here rather than with each of its pods.
	pod := corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: template.Spec}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[Annotation] = effective
	if !wanted && (copied || !has) {
		delete(pod.Annotations, Annotation)
	}
	made, err := s.pod(&pod, o.Namespace)
	if err != nil {
		return Decision{}, err
	}
	d.Patch, d.Does = p, "each pod: "+made.Does
	d.Warnings = append(d.Warnings, made.Warnings...)
	if len(p) == 0 && len(made.Patch) == 0 {
		d.Does = made.Does
	}
	return d, nil
}

// present tells whether JSON has an object at a path.
func present(raw []byte, at string) bool {
	for name := range strings.SplitSeq(strings.TrimPrefix(at, "/"), "/") {
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return false
		}
		raw = object[name]
	}
	return len(raw) > 0 && raw[0] == '{'
}
