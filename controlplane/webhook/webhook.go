// Package webhook joins pods of a Kubernetes cluster to network services: what carries the annotation networkservicemesh.io gets
// a client of the mesh put into it when the API server admits it.
//
//  1. The annotation of a pod, or of its namespace where the pod has none, is read (Parse). One that is wrong refuses the pod,
//     with the place of the fault.
//  2. The pod gets an init container, which makes the connections and exits, so that the application finds its interfaces when
//     it starts; and a sidecar, which takes the connections up and keeps them until the pod ends (Settings.Decide).
//  3. A workload (Deployment, Job, …) with the annotation has it copied to its pod template. The containers come with the pods, so
//     the template stays its author's, and pods get the clients of the day.
//
// What is decided is a patch made by hand of additions only: fields of a newer Kubernetes than this package knows stay as they are.
// A pod that has both containers gets no patch, so that it may come by any number of times.
//
// Run serves this to API servers, with certificates of an authority of its own that all replicas share (authority.go).
package webhook

import (
	"fmt"
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"highwire/controlplane/client"
	"highwire/vppapi/fault"
)

// Annotation names the network services of a pod, as a list that client.ParseServices reads. An empty one wants none, also where
// the namespace has one.
const Annotation = "networkservicemesh.io"

// Copied marks a pod template whose Annotation came from its workload.
const Copied = "highwire.networkservicemesh.io/copied-from"

// Sidecar says which kind of container keeps the connections.
type Sidecar string

const (
	// Native is an init container that is restarted always: it starts before the application and ends after it, and a Job ends
	// without it. Kubernetes has them since 1.29.
	Native Sidecar = "native"
	// Container is one beside the application.
	Container Sidecar = "container"
)

// Settings say what pods get. Defaults gives good ones; Check tells what is wrong with others.
type Settings struct {
	// Image of both containers, in which highwire is the entrypoint.
	Image      string
	PullPolicy corev1.PullPolicy
	// InitName and SidecarName are those of the containers.
	InitName, SidecarName string
	Sidecar               Sidecar
	// Resources of each of the two, beside the virtual functions that services ask for.
	Resources corev1.ResourceRequirements
	// User that both run as; the development CA of an agent only knows its own.
	User int64
	// Sockets is the directory on the node with the agent's socket, and ConnectTo the name of the socket in it.
	Sockets, ConnectTo string
	// SPIFFE is the directory on the node with the Workload API's socket, empty for a volume of the driver csi.spiffe.io; and
	// SPIFFESocket the name of the socket in it.
	SPIFFE, SPIFFESocket string
	// Labels that a pod gets if it has none of that name, such as those by which SPIRE knows who gets an identity.
	Labels map[string]string
	// DNS has sidecars answer the DNS queries of their pods. They are root then, see sidecar.
	DNS bool
	// Args are further ones for both clients.
	Args []string
}

// Defaults of everything but the image.
func Defaults() Settings {
	return Settings{
		PullPolicy: corev1.PullIfNotPresent, InitName: "highwire-init", SidecarName: "highwire", Sidecar: Native, User: 65532,
		Sockets: "/var/lib/networkservicemesh", ConnectTo: "nsm.io.sock", SPIFFESocket: "spire-agent.sock",
		Labels: map[string]string{"spiffe.io/spiffe-id": "true"},
	}
}

// Check refuses settings that no pod could have.
func (s *Settings) Check() error {
	invalid := func(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }
	for _, name := range []string{s.InitName, s.SidecarName} {
		if why := validation.IsDNS1123Label(name); why != nil {
			return invalid("container name %q: %s", name, why[0])
		}
	}
	switch {
	case s.Image == "":
		return invalid("no image for the containers that are put into pods")
	case s.InitName == s.SidecarName:
		return invalid("both containers are named %q", s.InitName)
	case s.Sidecar != Native && s.Sidecar != Container:
		return invalid("sidecar %q: want %s or %s", s.Sidecar, Native, Container)
	case s.User < 0:
		return invalid("user %d", s.User)
	case !path.IsAbs(s.Sockets), s.SPIFFE != "" && !path.IsAbs(s.SPIFFE):
		return invalid("directories of sockets %q and %q: want absolute paths on the node", s.Sockets, s.SPIFFE)
	}
	for _, socket := range []string{s.ConnectTo, s.SPIFFESocket} {
		if socket == "" || path.Base(socket) != socket {
			return invalid("socket %q: want the name of a file in its directory", socket)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if why := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(s.Labels[k])...); why != nil {
			return invalid("label %s=%s: %s", k, s.Labels[k], why[0])
		}
	}
	return nil
}

// Parse reads an annotation's value, see client.ParseServices; an empty one wants nothing. Errors are a *client.SyntaxError in a
// fault.Invalid.
func Parse(value string) ([]client.Service, error) {
	if value == "" {
		return nil, nil
	}
	services, err := client.ParseServices(value)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", Annotation, err)
	}
	return services, nil
}
