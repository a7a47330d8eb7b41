// Gotest runs "go test -json" with its own arguments, prints what plain "go test" prints, and at the end lists what was
// skipped, with the reasons, and counts:
//
//	go run .ci/gotest.go -race ./...
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is a line of test2json's output; see "go doc test2json".
type event struct{ Action, Package, Test, Output string }

// report collects the events of one run.
type report struct {
	output                  map[string]*strings.Builder // by package and test, while it runs
	skips                   []string
	passed, failed, skipped int
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	r := report{output: map[string]*strings.Builder{}}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case json.Unmarshal(line, &e) == nil:
			r.add(e)
		case len(line) > 0:
			fmt.Printf("%s", line)
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	if len(r.skips) > 0 {
		slices.Sort(r.skips)
		fmt.Printf("\nskipped:\n%s", strings.Join(r.skips, ""))
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if err != nil {
		os.Exit(1)
	}
}

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Print(e.Output)
	case "output":
		// Plain go test says nothing of a test's progress, and PASS only as "ok".
		if strings.HasPrefix(e.Output, "=== ") || e.Test == "" && (e.Output == "PASS\n" || strings.HasPrefix(e.Output, "coverage:")) {
			return
		}
		if e.Test == "" {
			fmt.Print(e.Output)
			return
		}
		if r.output[key] == nil {
			r.output[key] = new(strings.Builder)
		}
		r.output[key].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			return
		}
		text := ""
		if r.output[key] != nil {
			text = r.output[key].String()
			delete(r.output, key)
		}
		switch e.Action {
		case "pass":
			r.passed++
		case "fail":
			r.failed++
			fmt.Print(text)
		case "skip":
			r.skipped++
			r.skips = append(r.skips, fmt.Sprintf("  %s %s: %s\n", e.Package, e.Test, reason(text)))
		}
	}
}

// reason takes the message of t.Skip out of a skipped test's output: "    file_test.go:12: message".
func reason(output string) string {
	for line := range strings.Lines(output) {
		place, message, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok && strings.Contains(place, ".go:") {
			return message
		}
	}
	return "no reason given"
}
