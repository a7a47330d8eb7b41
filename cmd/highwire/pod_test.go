package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"highwire/cmd/lab"
	"highwire/controlplane/webhook"
)

// containers are those that the webhook puts into a pod with the annotation, in their order.
func containers(t *testing.T, n *node, annotation string) []corev1.Container {
	t.Helper()
	s := webhook.Defaults()
	s.Image, s.Sockets, s.ConnectTo = "highwire", n.dir, "nsm.sock"
	pod := corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
	pod.Annotations = map[string]string{webhook.Annotation: annotation}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Decide(webhook.Object{Kind: "Pod", Raw: raw})
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range d.Patch {
		if list, ok := op.Value.([]corev1.Container); ok && op.Path == "/spec/initContainers" {
			return list
		}
	}
	t.Fatalf("no containers in %v", d.Patch)
	return nil
}

// run starts a container as a process in the pod's network namespace, as the kubelet would.
func (n *node) run(pod *lab.Namespace, c corev1.Container) *program {
	n.t.Helper()
	var args []string
	for _, a := range c.Args {
		args = append(args, strings.NewReplacer("$$", "$", "$(POD_NAME)", "web-0", "$(POD_NAMESPACE)", "shop", "$(NODE_NAME)", "node-1",
			"unix:///spiffe-workload-api/spire-agent.sock", n.workload()).Replace(a))
	}
	return n.startIn(pod, args...)
}

func (p *program) awaitExit(code int) {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		text, _ := p.text()
		p.t.Fatalf("%v does not end:\n%s", p.cmd.Args, text)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		text, _ := p.text()
		p.t.Fatalf("%v ended with %d, want %d:\n%s", p.cmd.Args, got, code, text)
	}
}

// A pod of processes: the init container connects and exits, packets flow, the sidecar takes the same vWires up and closes them
// when the pod ends.
func TestPod(t *testing.T) {
	exe := binary(t)
	onVPPs(t, func(t *testing.T, vpp string) {
		n := newNode(t, exe, "--vpp", vpp)
		n.join("endpoint", "--name", "nse-1", "--service", "db", "--cidr", "10.1.0.0/24", "--netns", space(t).Path()).await("registered")
		n.join("endpoint", "--name", "nse-2", "--service", "cache", "--cidr", "10.2.0.0/24", "--netns", space(t).Path()).await("registered")
		pod := space(t)
		list := containers(t, n, "kernel://db/db0?zone=a , kernel://cache/cache0")
		if len(list) != 2 {
			t.Fatalf("%d containers", len(list))
		}
		n.run(pod, list[0]).awaitExit(0)
		for range 2 { // kubelets run init containers again when a node was restarted
			reaches(t, pod, "10.1.0.2")
			reaches(t, pod, "10.2.0.2")
			if all := n.vwires(); len(all) != 2 || all[0].State != "up" || all[1].State != "up" {
				t.Fatalf("vWires %+v, want two that are up", all)
			}
			n.run(pod, list[0]).awaitExit(0)
		}
		sidecar := n.run(pod, list[1])
		sidecar.awaitN(2, "connected ")
		sidecar.awaitN(2, "former life")
		if all := n.vwires(); len(all) != 2 {
			t.Fatalf("vWires %+v, want the two of the init container", all)
		}
		hasAddress(t, pod, "db0", "10.1.0.3/32")
		hasAddress(t, pod, "cache0", "10.2.0.3/32")
		reaches(t, pod, "10.1.0.2")
		sidecar.end(syscall.SIGTERM)
		if all := n.vwires(); len(all) != 0 {
			t.Errorf("vWires %+v are left", all)
		}
	})
}

// An init container that is told to stop before all is there leaves nothing, and has failed.
func TestPodInitStopped(t *testing.T) {
	needNamespaces(t)
	n := newNode(t, binary(t), "--vpp", pocket)
	n.join("endpoint", "--name", "nse", "--service", "db", "--cidr", "10.1.0.0/24", "--netns", space(t).Path()).await("registered")
	pod := space(t)
	first := n.run(pod, containers(t, n, "kernel://db/db0, kernel://missing")[0])
	first.await("connected kernel://db/db0")
	first.await("no vWire yet")
	_ = first.cmd.Process.Signal(syscall.SIGTERM)
	first.awaitExit(exitFailure)
	first.await("stopped while 1 of 2 vWires were not there; none is left")
	if all := n.vwires(); len(all) != 0 {
		t.Errorf("vWires %+v are left", all)
	}
}
