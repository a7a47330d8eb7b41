package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"highwire/vppapi/fault"
)

// admitter answers the API server's questions.
type admitter struct {
	settings Settings
	// cached reads namespaces from memory, live from the API server.
	cached, live kube.Reader
	figures      *figures
	log          *slog.Logger
}

// Handle answers one question: the patch, or why not.
func (a *admitter) Handle(ctx context.Context, r admission.Request) admission.Response {
	begun := time.Now()
	o := Object{Kind: r.Kind.Kind, Raw: r.Object.Raw, Update: r.Operation == admissionv1.Update}
	log := a.log.With("kind", o.Kind, "namespace", r.Namespace, "name", r.Name, "uid", r.UID)
	answer, result := a.answer(ctx, r, o, log)
	a.figures.decided(o.Kind, result, time.Since(begun))
	return answer
}

func (a *admitter) answer(ctx context.Context, r admission.Request, o Object, log *slog.Logger) (admission.Response, string) {
	if o.Kind == "Pod" || templates[o.Kind] != "" {
		var err error
		if o.Namespace, err = a.annotation(ctx, r.Namespace); err != nil {
			log.Error("its namespace cannot be read", "reason", err)
			return admission.Errored(http.StatusInternalServerError, err), "failed"
		}
	}
	d, err := a.settings.Decide(o)
	switch {
	case err != nil && o.Update && sameAnnotations(r.OldObject.Raw, r.Object.Raw):
		// What was wrong before must not stand in the way of other changes.
		log.Warn("left alone, though it is wrong: it has been so before", "reason", err)
		return admission.Allowed("").WithWarnings(err.Error()), "unchanged"
	case err != nil && fault.Is(err, fault.Invalid):
		log.Info("refused", "reason", err)
		return admission.Denied(err.Error()), "refused"
	case err != nil:
		log.Error("failed", "reason", err)
		return admission.Errored(http.StatusInternalServerError, err), "failed"
	case len(d.Patch) == 0:
		log.Debug(d.Does)
		return admission.Allowed("").WithWarnings(d.Warnings...), "unchanged"
	}
	log.Info("patched", "does", d.Does)
	return admission.Patched(d.Does, d.Patch...).WithWarnings(d.Warnings...), "patched"
}

// annotation is that of a namespace; one that was made a moment ago may be missing in memory.
func (a *admitter) annotation(ctx context.Context, namespace string) (string, error) {
	n := metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}}
	name := types.NamespacedName{Name: namespace}
	err := a.cached.Get(ctx, name, &n)
	if apierrors.IsNotFound(err) {
		err = a.live.Get(ctx, name, &n)
	}
	return n.Annotations[Annotation], err
}

// sameAnnotations tells whether two versions of an object say the same about network services.
func sameAnnotations(old, updated []byte) bool {
	var a, b workload
	if err := errors.Join(json.Unmarshal(old, &a), json.Unmarshal(updated, &b)); err != nil {
		return false
	}
	return a.Annotations[Annotation] == b.Annotations[Annotation] &&
		a.Spec.Template.Annotations[Annotation] == b.Spec.Template.Annotations[Annotation] &&
		a.Spec.JobTemplate.Spec.Template.Annotations[Annotation] == b.Spec.JobTemplate.Spec.Template.Annotations[Annotation]
}
