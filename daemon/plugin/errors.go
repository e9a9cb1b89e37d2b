package plugin

import "strings"

// An ArgumentError is everything that is wrong with the arguments of one call.
type ArgumentError struct {
	Task     string
	Problems []ArgumentProblem // in the order of the parameters
}

// ArgumentProblem is what is wrong with one argument.
type ArgumentProblem struct{ Name, Problem string }

// Error is one line with all of them.
func (e *ArgumentError) Error() string {
	all := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		all[i] = p.Name + ": " + p.Problem
	}
	return "the arguments of " + e.Task + " are wrong: " + strings.Join(all, "; ")
}
