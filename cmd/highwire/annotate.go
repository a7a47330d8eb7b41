package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"highwire/controlplane/webhook"
)

func newAnnotate() *cobra.Command {
	return group("annotate", "Try annotations of pods before a cluster does", newAnnotateCheck())
}

func newAnnotateCheck() *cobra.Command {
	var i injection
	var patches bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what the webhook would do to each object of a YAML file",
		Long: `Reads the objects of a YAML or JSON file, - for standard input, and says a line for each: what 'highwire webhook' would do with it,
given the same flags. Namespaces in the file count for the pods in it. What would be refused is told with file, line and column, and
makes the exit code 1. No cluster is asked.`,
		Example: "  highwire annotate check deployment.yaml\n  kubectl get deployment web -o yaml | highwire annotate check --patch -",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := i.resolve(func() (webhook.Sidecar, error) { return webhook.Native, nil }); err != nil {
				return err
			}
			data, err := readFile(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			verdicts, err := i.CheckFile(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			wrong := 0
			out := cmd.OutOrStdout()
			for _, v := range verdicts {
				if v.Err != nil {
					wrong++
					fmt.Fprintf(out, "%s:%d:%d: %s: refused: %v\n", args[0], v.Line, v.Column, v.Name, v.Err)
					continue
				}
				fmt.Fprintf(out, "%s:%d:%d: %s: %s\n", args[0], v.Line, v.Column, v.Name, v.Decision.Does)
				for _, w := range v.Decision.Warnings {
					fmt.Fprintf(out, "  warning: %s\n", w)
				}
				if !patches {
					continue
				}
				for _, op := range v.Decision.Patch {
					value, err := json.Marshal(op.Value)
					if err != nil {
						return err
					}
					fmt.Fprintf(out, "  %s %s %s\n", op.Operation, op.Path, value)
				}
			}
			if wrong > 0 {
				return exitError(exitFailure)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&patches, "patch", false, "show each addition (JSON Patch)")
	i.add(cmd.Flags())
	return cmd
}

// readFile is a file's content, or what comes in for -.
func readFile(name string, in io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(in)
	}
	return os.ReadFile(name)
}
