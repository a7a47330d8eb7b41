package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"highwire/controlplane/policy"
)

func newPolicy() *cobra.Command {
	return group("policy", "Try an operator's rules about who may have which vWire", newPolicyTest())
}

func newPolicyTest() *cobra.Command {
	var s policy.Subject
	var path []string
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Say what a policy decides, and by which rule",
		Long: `Reads a policy as 'highwire agent --policy FILE' does and says what it decides about a Request: "allowed" with exit code 0, or
"denied" with exit code 1, and by which rule. A file that the agent would refuse is an error that names the rule.`,
		Example: "  highwire policy test policy.yaml --caller spiffe://corp.example/ns/shop/pod/x --service db --label zone=a\n" +
			"  highwire policy test policy.yaml --caller spiffe://corp.example/mgr --service db --path nsc=spiffe://corp.example/ns/shop/pod/x",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.Caller == "" || s.Service == "" {
				return usagef("--caller and --service are needed")
			}
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			p, err := policy.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, hop := range path {
				name, id, ok := strings.Cut(hop, "=")
				if !ok {
					return usagef("--path %q: want NAME=SPIFFE-ID", hop)
				}
				s.Path = append(s.Path, policy.Hop{Name: name, ID: id})
			}
			v := p.Decide(s)
			fmt.Fprintln(cmd.OutOrStdout(), v)
			if !v.Allowed {
				return exitError(exitFailure)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.Caller, "caller", "", "SPIFFE id of who asks")
	flags.StringVar(&s.Service, "service", "", "network service")
	flags.StringToStringVar(&s.Labels, "label", nil, "label of the connection, repeatable: KEY=VALUE")
	flags.StringSliceVar(&path, "path", nil, "hop of the path from the client on, repeatable: NAME=SPIFFE-ID")
	return cmd
}
