package search

import (
	"cmp"
	"slices"
)

// class of a load for a goal.
type class int

const (
	undecided class = iota
	lowerBound
	upperBound
)

// classify tells by its trials what a load is for the goal (RFC 9971, section 6 and appendix A). Time with high loss may take the
// goal's exceed ratio of the whole. Short trials count against a load only beyond what the same ratio grants to the short
// ones with low loss. A load is decided when the time that is still missing, were it all good or all bad, would not change
// the answer.
func classify(g Goal, trials []Trial) class {
	var fullLow, fullHigh, shortLow, shortHigh float64 // seconds
	for _, t := range trials {
		seconds := t.Duration.Seconds()
		low := t.LossRatio <= g.LossRatio
		switch full := t.Duration >= g.FinalTrial; {
		case full && low:
			fullLow += seconds
		case full:
			fullHigh += seconds
		case low:
			shortLow += seconds
		default:
			shortHigh += seconds
		}
	}
	high := fullHigh + max(0, shortHigh-shortLow*g.ExceedRatio/(1-g.ExceedRatio))
	whole := max(fullLow+high, g.DurationSum.Seconds())
	// Sums of seconds are not exact.
	allowed := whole*g.ExceedRatio + whole*1e-9
	atBest := high <= allowed
	atWorst := whole-fullLow <= allowed
	switch {
	case atWorst:
		return lowerBound
	case !atBest:
		return upperBound
	}
	return undecided
}

// quantileLoss is the loss ratio that trials of full length stay within, but for the part of time that may exceed it; what is
// missing to the goal's duration counts as all lost.
func quantileLoss(g Goal, trials []Trial) float64 {
	full := slices.DeleteFunc(slices.Clone(trials), func(t Trial) bool { return t.Duration < g.FinalTrial })
	slices.SortFunc(full, func(a, b Trial) int { return cmp.Compare(a.LossRatio, b.LossRatio) })
	whole := 0.0
	for _, t := range full {
		whole += t.Duration.Seconds()
	}
	whole = max(whole, g.DurationSum.Seconds())
	rest := whole * (1 - g.ExceedRatio)
	for _, t := range full {
		rest -= t.Duration.Seconds()
		if rest <= whole*1e-9 {
			return t.LossRatio
		}
	}
	return g.LossRatio // fewer trials than that make no bound
}
