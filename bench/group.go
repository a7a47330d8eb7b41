package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"highwire/vppapi/fault"
)

// group is figures measured together.
type group struct {
	name    string
	measure func(context.Context) error
}

// gather measures the groups with only in their names and returns the report. One that fails does not keep the others from being
// measured. There is no report once ctx has ended.
func (r *Report) gather(ctx context.Context, log *slog.Logger, only string, groups []group) (*Report, error) {
	var errs []error
	for _, g := range groups {
		if !strings.Contains(g.name, only) {
			continue
		}
		log.Info("measuring " + g.name)
		if err := g.measure(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
		}
		if ctx.Err() != nil {
			return nil, fault.New(fault.KindOf(ctx.Err()), "stopped before the end, no report: %w", ctx.Err())
		}
	}
	return r, errors.Join(errs...)
}
