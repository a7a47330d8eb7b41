package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"highwire/controlplane/registry"
)

// kubernetes says which Kubernetes API agents share as their registry.
type kubernetes struct {
	use                bool
	kubeconfig, within string
}

// podNamespace is where the kubelet tells a pod its namespace.
const podNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func (k *kubernetes) add(flags *pflag.FlagSet) {
	flags.BoolVar(&k.use, "kubernetes", false, "share the Kubernetes API as the registry: NetworkService and NetworkServiceEndpoint objects")
	flags.StringVar(&k.kubeconfig, "kubeconfig", "", "file that says how to reach the Kubernetes API (default: by the pod's service account)")
	flags.StringVar(&k.within, "kubernetes-namespace", "", "where the objects of what is registered here go (default: the pod's namespace)")
}

func (k *kubernetes) check() error {
	if !k.use && k.kubeconfig+k.within != "" {
		return usagef("--kubeconfig, --kubernetes-namespace: they say nothing without --kubernetes")
	}
	return nil
}

func (k *kubernetes) open() (*registry.Kubernetes, error) {
	config, err := clientcmd.BuildConfigFromFlags("", k.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubernetes: %w; outside of a pod say --kubeconfig", err)
	}
	config.QPS = -1 // the API says when it has enough
	config.UserAgent = "highwire"
	namespace := k.within
	if namespace == "" {
		own, err := os.ReadFile(podNamespace)
		if err != nil {
			return nil, fmt.Errorf("--kubernetes: %w; outside of a pod say --kubernetes-namespace", err)
		}
		namespace = strings.TrimSpace(string(own))
	}
	return registry.OpenKubernetes(registry.KubernetesConfig{API: config, Namespace: namespace})
}
