package webhook

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"highwire/controlplane/client"
)

// Where the containers see the sockets, and the volumes that bring them.
const (
	spiffeVolume  = "highwire-spiffe"
	spiffeMount   = "/spiffe-workload-api"
	socketsVolume = "highwire-sockets"
	csiDriver     = "csi.spiffe.io"
)

// initContainer makes the connections and exits.
func (s *Settings) initContainer(value string, services []client.Service) corev1.Container {
	c := s.container(s.InitName, value, services)
	c.Args = slices.Insert(c.Args, 1, "--init")
	return c
}

// sidecar keeps the connections, and may answer the pod's DNS queries.
func (s *Settings) sidecar(value string, services []client.Service) corev1.Container {
	c := s.container(s.SidecarName, value, services)
	if s.Sidecar == Native {
		always := corev1.ContainerRestartPolicyAlways
		c.RestartPolicy = &always
	}
	if s.DNS {
		// The pod's resolv.conf is root's, and mounted read-only where the root file system is. Port 53 takes a right, too.
		root, no := int64(0), false
		c.Args = slices.Insert(c.Args, 1, "--dns")
		c.SecurityContext.RunAsUser, c.SecurityContext.RunAsNonRoot, c.SecurityContext.ReadOnlyRootFilesystem = &root, &no, &no
		c.SecurityContext.Capabilities.Add = []corev1.Capability{"NET_BIND_SERVICE"}
	}
	return c
}

// container is what both have in common: the name in the mesh above all, by which the sidecar takes up what the init container
// has made. It needs no right beyond those of any process: the agent does the work, in the network namespace it is handed.
func (s *Settings) container(name, value string, services []client.Service) corev1.Container {
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	no, yes := false, true
	root := s.User == 0
	args := []string{
		"client", "--name", "$(POD_NAME).$(POD_NAMESPACE)",
		"--connect-to", "unix://" + s.Sockets + "/" + s.ConnectTo,
		"--spiffe-socket", "unix://" + spiffeMount + "/" + s.SPIFFESocket,
		"--label", "podName=$(POD_NAME)", "--label", "nodeName=$(NODE_NAME)",
	}
	args = append(args, s.Args...)
	args = append(args, "--")
	for part := range strings.SplitSeq(value, ",") {
		// Kubernetes replaces $(NAME) in arguments; $$ stands for one $.
		args = append(args, strings.ReplaceAll(strings.TrimSpace(part), "$", "$$"))
	}
	user := s.User
	nonRoot := !root
	return corev1.Container{
		Name: name, Image: s.Image, ImagePullPolicy: s.PullPolicy, Args: args,
		Env: []corev1.EnvVar{
			{Name: "POD_NAME", ValueFrom: field("metadata.name")},
			{Name: "POD_NAMESPACE", ValueFrom: field("metadata.namespace")},
			{Name: "NODE_NAME", ValueFrom: field("spec.nodeName")},
		},
		Resources: withFunctions(s.Resources, services),
		VolumeMounts: []corev1.VolumeMount{
			{Name: socketsVolume, MountPath: s.Sockets, ReadOnly: true},
			{Name: spiffeVolume, MountPath: spiffeMount, ReadOnly: true},
		},
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: &user, RunAsNonRoot: &nonRoot, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// withFunctions adds the virtual functions that services ask for, by the names of their tokens. The kubelet gives a container
// that needs one what the init containers before it had, so the sidecar has the same one.
func withFunctions(r corev1.ResourceRequirements, services []client.Service) corev1.ResourceRequirements {
	out := *r.DeepCopy()
	for _, service := range services {
		token := corev1.ResourceName(service.Token())
		if token == "" {
			continue
		}
		for _, list := range []*corev1.ResourceList{&out.Requests, &out.Limits} {
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			n := (*list)[token]
			n.Add(resource.MustParse("1"))
			(*list)[token] = n
		}
	}
	return out
}

// volumes bring the sockets.
func (s *Settings) volumes() []corev1.Volume {
	directory := corev1.HostPathDirectory
	yes := true
	spiffe := corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: csiDriver, ReadOnly: &yes}}
	if s.SPIFFE != "" {
		spiffe = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: s.SPIFFE, Type: &directory}}
	}
	return []corev1.Volume{
		{Name: socketsVolume, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: s.Sockets, Type: &directory}}},
		{Name: spiffeVolume, VolumeSource: spiffe},
	}
}

// missing are the labels that a pod lacks, in order.
func (s *Settings) missing(labels map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		if _, ok := labels[k]; !ok {
			list = append(list, k)
		}
	}
	return list
}
