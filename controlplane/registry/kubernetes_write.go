package registry

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"highwire/vppapi/fault"
)

// manager is who agents say they are.
const manager = "highwire"

// managedBy is the label of objects that agents made.
const managedBy = "app.kubernetes.io/managed-by"

// write puts v in the place of the object that was last seen to have its name, if the owner of that is by.
func (o *objects[T]) write(ctx context.Context, by string, v T) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	there, taken, err := o.claim(v.GetName(), by)
	if err != nil {
		return err
	}
	var raw *unstructured.Unstructured
	if taken {
		raw = there.DeepCopy()
	} else {
		raw = &unstructured.Unstructured{}
		raw.SetNamespace(o.namespace)
		raw.SetName(o.freeName(v.GetName()))
	}
	if err := o.encode(v, raw); err != nil {
		return err
	}
	objects := o.client.Namespace(raw.GetNamespace())
	var now *unstructured.Unstructured
	if taken {
		now, err = objects.Update(ctx, raw, metav1.UpdateOptions{FieldManager: manager})
	} else {
		now, err = objects.Create(ctx, raw, metav1.CreateOptions{FieldManager: manager})
	}
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), taken && apierrors.IsNotFound(err):
		return o.look(ctx, keyOf(raw))
	case err != nil:
		return kubernetesError(err)
	}
	o.see(now, false)
	return nil
}

// remove deletes the object that has the name, if its owner is by; what does not exist is no error.
func (o *objects[T]) remove(ctx context.Context, by, name string) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	there, taken, err := o.claim(name, by)
	if err == nil && taken {
		err = o.delete(ctx, there)
	}
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(name)
	o.tell(name) // another object may have it
	return nil
}

// delete deletes the object as it was seen.
func (o *objects[T]) delete(ctx context.Context, x object[T]) error {
	key, uid, version := keyOf(x.Unstructured), x.GetUID(), x.GetResourceVersion()
	err := o.client.Namespace(key.Namespace).Delete(ctx, key.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	switch {
	case apierrors.IsNotFound(err):
	case apierrors.IsConflict(err):
		return o.look(ctx, key)
	case err != nil:
		return kubernetesError(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := o.known[key]; now.Unstructured != nil && now.GetUID() == uid {
		now.gone = true
		o.known[key] = now
	}
	return nil
}

// claim finds the object to write over, for an owner: the one that has the name, or one of ours that has expired.
func (o *objects[T]) claim(name, by string) (there object[T], taken bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	there, taken = o.of(name)
	if !taken {
		for _, x := range o.known {
			if x.expired && !x.gone && x.name() == name && x.GetNamespace() == o.namespace && x.ours(o.ids(x.value)) {
				return x, true, nil
			}
		}
		return there, false, nil
	}
	ids := o.ids(there.value)
	switch {
	case !there.ours(ids):
		return there, true, fault.New(fault.Conflict, "%s %s in namespace %s was not made by an agent; change it with kubectl, or use another name",
			o.kindName, name, there.GetNamespace())
	case by != "" && owner(ids) != by:
		return there, true, errChanged
	}
	return there, true, nil
}

// freeName is the name for a new object of the entry of the name: the same where Kubernetes allows it and no object has it.
func (o *objects[T]) freeName(name string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	object := objectName(name)
	if x := o.known[types.NamespacedName{Namespace: o.namespace, Name: object}]; x.Unstructured != nil && !x.gone {
		return hashedName(name)
	}
	return object
}
