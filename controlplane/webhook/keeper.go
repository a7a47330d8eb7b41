package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// keeper keeps a certificate that the API servers trust: the authorities in the Secret, what they trust in the
// MutatingWebhookConfiguration, and our own certificate in memory. Every replica has one. Each looks when either object changes
// and when something is due, and gives way to a replica that was faster.
type keeper struct {
	client kube.Client
	secret types.NamespacedName
	config string // name of the MutatingWebhookConfiguration
	names  []string
	life   time.Duration
	now    func() time.Time
	log    *slog.Logger

	current atomic.Pointer[serving]
}

// serving is our certificate, and who has signed it.
type serving struct {
	cert   *tls.Certificate
	signer []byte // of the authority, raw
}

// errNoCertificate is why no call is taken yet.
var errNoCertificate = errors.New("there is no certificate that API servers trust yet")

// certificate is tls.Config.GetCertificate.
func (k *keeper) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s := k.current.Load(); s != nil {
		return s.cert, nil
	}
	return nil, errNoCertificate
}

// ready tells why no call could be taken.
func (k *keeper) ready() error {
	switch s := k.current.Load(); {
	case s == nil:
		return errNoCertificate
	case !k.now().Before(s.cert.Leaf.NotAfter):
		return errors.New("our certificate has expired; see the log for why there is no new one")
	}
	return nil
}

// expiry is when our certificate ends.
func (k *keeper) expiry() time.Time {
	if s := k.current.Load(); s != nil {
		return s.cert.Leaf.NotAfter
	}
	return time.Time{}
}

// addTo has the manager call Reconcile when one of the objects changes.
func (k *keeper) addTo(m ctrl.Manager) error {
	same := handler.EnqueueRequestsFromMapFunc(func(context.Context, kube.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: k.secret}}
	})
	return ctrl.NewControllerManagedBy(m).Named("certificates").
		Watches(&corev1.Secret{}, same).Watches(&admissionv1.MutatingWebhookConfiguration{}, same).Complete(k)
}

// Reconcile does what is due, and says when to come again.
func (k *keeper) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	list, err := k.agree(ctx)
	if apierrors.IsConflict(err) {
		// Another replica was faster; its change wakes us as well.
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	// What is to be trusted is published before it is used.
	if err := k.publish(ctx, list.bundle()); err != nil {
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: time.Second}, nil
		}
		return reconcile.Result{}, err
	}
	renewal, err := k.renew(list)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := k.now()
	at := list.due(now)
	if renewal.Before(at) {
		at = renewal
	}
	return reconcile.Result{RequeueAfter: max(at.Sub(now), time.Second)}, nil
}

// agree is what the Secret holds, after bringing it up to date.
func (k *keeper) agree(ctx context.Context) (authorities, error) {
	var secret corev1.Secret
	if err := k.client.Get(ctx, k.secret, &secret); err != nil {
		return nil, fmt.Errorf("secret %s: %w; it comes with the manifests, empty", k.secret, err)
	}
	have, err := parseAuthorities(secret.Data)
	if err != nil {
		k.log.Warn("the Secret with the authority cannot be used; making a new one", "secret", k.secret, "reason", err)
		have = nil
	}
	list, changed, err := have.advance(k.now(), k.life)
	if err != nil || !changed {
		return list, err
	}
	data, err := list.data()
	if err != nil {
		return nil, err
	}
	updated := secret.DeepCopy()
	updated.Data = data
	// With the version that was read, so that of two replicas only one succeeds.
	if err := k.client.Update(ctx, updated); err != nil {
		return nil, err
	}
	k.log.Info("the authority of the certificates was renewed", "secret", k.secret, "authorities", len(list), "until", list[len(list)-1].cert.NotAfter)
	return list, nil
}

// publish has API servers trust the bundle.
func (k *keeper) publish(ctx context.Context, bundle []byte) error {
	var config admissionv1.MutatingWebhookConfiguration
	if err := k.client.Get(ctx, types.NamespacedName{Name: k.config}, &config); err != nil {
		return fmt.Errorf("MutatingWebhookConfiguration %s: %w; it comes with the manifests", k.config, err)
	}
	updated := config.DeepCopy()
	for i := range updated.Webhooks {
		updated.Webhooks[i].ClientConfig.CABundle = bundle
	}
	if equality.Semantic.DeepEqual(config.Webhooks, updated.Webhooks) {
		return nil
	}
	return k.client.Update(ctx, updated)
}

// renew gives us a certificate if ours is not by the authority that signs now, or is nearing its end; and tells when it does next.
func (k *keeper) renew(list authorities) (time.Time, error) {
	now := k.now()
	signer := list.signer(now)
	renewal := func(c *tls.Certificate) time.Time {
		begin := c.Leaf.NotBefore.Add(skew)
		return c.Leaf.NotAfter.Add(-c.Leaf.NotAfter.Sub(begin) / leftPart)
	}
	if s := k.current.Load(); s != nil && bytes.Equal(s.signer, signer.cert.Raw) && now.Before(renewal(s.cert)) {
		return renewal(s.cert), nil
	}
	cert, err := signer.serving(now, k.names)
	if err != nil {
		return time.Time{}, err
	}
	k.current.Store(&serving{cert, signer.cert.Raw})
	k.log.Info("new certificate", "names", k.names, "until", cert.Leaf.NotAfter)
	return renewal(cert), nil
}

// defaultLife is how long an authority lives.
const defaultLife = 365 * 24 * time.Hour

// lifetime is what a configured one stands for.
func lifetime(d time.Duration) time.Duration { return cmp.Or(d, defaultLife) }
