package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Where an agent's sockets are unless told otherwise.
const (
	defaultListen   = "unix:///var/lib/networkservicemesh/nsm.io.sock"
	defaultAdmin    = "/run/highwire/admin.sock"
	defaultWorkload = "/run/highwire/workload.sock"
	defaultData     = "/var/lib/highwire"
)

// alsoFrom lets a flag take its value from a variable that other members of the mesh know it by.
func alsoFrom(flags *pflag.FlagSet, flag, variable string) {
	f := flags.Lookup(flag)
	f.Annotations = map[string][]string{"env": {variable}}
	f.Usage += " (or " + variable + ")"
}

// fromEnvironment sets the flags that the command line left alone from HIGHWIRE_<FLAG>, then from the flag's other name.
func fromEnvironment(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" {
			return
		}
		names := append([]string{"HIGHWIRE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))}, f.Annotations["env"]...)
		for _, name := range names {
			value, ok := os.LookupEnv(name)
			if !ok || value == "" {
				continue
			}
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
			return
		}
	})
	return errors.Join(errs...)
}

// logFlags are --log-level and --log-format.
type logFlags struct{ level, format string }

func (l *logFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&l.format, "log-format", "text", "text or json")
}

// logger writes to the command's standard error.
func (l *logFlags) logger(cmd *cobra.Command) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("--log-level %q: want debug, info, warn or error", l.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), options)), nil
	}
	return nil, usagef("--log-format %q: want text or json", l.format)
}
