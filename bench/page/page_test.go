package page

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"highwire/bench"
	"highwire/bench/search"
)

// sample has something for every plot.
func sample() *bench.Results {
	side := func(rate float64) bench.Side {
		return bench.Side{
			MRR: rate * 1.1, NDR: search.Result{Lower: rate * 0.9, Upper: rate * 0.92, Throughput: rate * 0.9, Regular: true}, PDR: search.Result{Lower: rate, Throughput: rate * 0.996},
			Trials: []search.Trial{{Load: rate * 1.3, Duration: time.Second, LossRatio: 0.3}, {Load: rate, Duration: time.Second, LossRatio: 0.004}, {Load: rate / 2, Duration: time.Second}},
			Nodes:  []bench.NodeClocks{{Node: "memif-input", Clocks: 61.5}, {Node: "l2-output", Clocks: 20}},
		}
	}
	r := &bench.Results{
		Machine: bench.Machine{Cores: 2, Model: "A <Processor>", Kernel: "6.1", Dataplane: "VPP 25.10", Governor: "performance", Load: "0.1", Steal: 1.5},
		Figures: []bench.Figure{
			{Name: "memif 64 NDR", Value: 12, Unit: "Mpps", Baseline: 12.1, Ratio: 0.99, Low: 11.9, High: 12.1, Conditions: "frames one way"},
			{Name: "kernel TCP", Value: 10.8, Unit: "Gb/s", Baseline: 9.7, Ratio: 1.1},
		},
	}
	for i, p := range []string{"64", "IMIX"} {
		r.Searches = append(r.Searches, bench.Searched{Path: "memif", Profile: p, Bytes: 64, Ceiling: 2e7, Limited: i == 1, VWire: side(1.2e7), ByHand: side(1.1e7)})
	}
	for i, of := range []string{"vWire", "by hand"} {
		l := bench.Latency{Path: "kernel", Of: of, Sent: 100, Received: 100}
		for _, p := range []float64{0, 50, 99, 99.9, 100} {
			l.Percentiles = append(l.Percentiles, bench.Percentile{Percent: p, Time: time.Duration(50+20*float64(i)+p*p/100) * time.Microsecond})
		}
		r.Latencies = append(r.Latencies, l)
	}
	return r
}

func render(t *testing.T, r *bench.Results) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, "highwire bench", time.Unix(1.7e9, 0), r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The page needs nothing else, names what it was measured on, and each plot lies inside its frame.
func TestPage(t *testing.T) {
	t.Parallel()
	html := string(render(t, sample()))
	for _, want := range []string{
		"A &lt;Processor&gt;", "performance", "2023-11-14 22:13 UTC", "1.50 %", "limited by the generator", "memif-input 61.5", "Throughput by frame size, memif", "The same in bits, memif",
		"Loss by load, memif 64", "Loss by load, memif IMIX", "TCP goodput", "Round trips", "generator&#39;s ceiling", "11.9 to 12.1", "kernel, by hand",
	} {
		if !strings.Contains(html, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, no := range []string{"http", "<script", "<link", "NaN", "Inf", "%!", "ZgotmplZ"} {
		if strings.Contains(html, no) {
			t.Errorf("%q in the page", no)
		}
	}
	if n := strings.Count(html, `class="plot"`); n != 6 {
		t.Errorf("%d plots", n)
	}
	inside(t, html)
	empty := string(render(t, &bench.Results{}))
	if strings.Contains(empty, "<svg") || !strings.Contains(empty, "</html>") {
		t.Error("a page of nothing:", empty)
	}
}

// inside checks that SVG is well formed and that bars and dots lie within it.
func inside(t *testing.T, html string) {
	t.Helper()
	for rest := html; ; {
		_, after, found := strings.Cut(rest, "<svg")
		if !found {
			return
		}
		svg, next, _ := strings.Cut(after, "</svg>")
		rest = next
		d := xml.NewDecoder(strings.NewReader("<svg" + svg + "</svg>"))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			e, ok := token.(xml.StartElement)
			if !ok || e.Name.Local != "circle" && e.Name.Local != "rect" {
				continue
			}
			for _, a := range e.Attr {
				var v float64
				switch a.Name.Local {
				case "cx", "x", "cy", "y", "width", "height":
					if err := xmlNumber(a.Value, &v); err != nil || v < 0 || v > width {
						t.Errorf("%s %s=%q", e.Name.Local, a.Name.Local, a.Value)
					}
				}
			}
		}
	}
}

func xmlNumber(text string, v *float64) (err error) {
	*v, err = strconv.ParseFloat(text, 64)
	return err
}

// The page in a real browser: every color of the plots is to be seen.
func TestPageInBrowser(t *testing.T) {
	t.Parallel()
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Skip("no Chromium here to open the page in")
	}
	dir := t.TempDir()
	file, shot := filepath.Join(dir, "page.html"), filepath.Join(dir, "page.png")
	if err := os.WriteFile(file, render(t, sample()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir="+filepath.Join(dir, "profile"), "--window-size=1000,3600", "--screenshot="+shot, "file://"+file)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("the browser here does not work: %v\n%s", err, out)
	}
	f, err := os.Open(shot)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[color.RGBA]int{}
	for y := picture.Bounds().Min.Y; y < picture.Bounds().Max.Y; y++ {
		for x := picture.Bounds().Min.X; x < picture.Bounds().Max.X; x++ {
			r, g, b, _ := picture.At(x, y).RGBA()
			seen[color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), 255}]++
		}
	}
	for _, hex := range colors {
		var c [3]uint8
		for i := range c {
			c[i] = nibble(hex[1+2*i])<<4 | nibble(hex[2+2*i])
		}
		if n := seen[color.RGBA{c[0], c[1], c[2], 255}]; n < 100 {
			t.Errorf("%d pixels of color %s", n, hex)
		}
	}
}

func nibble(c byte) uint8 {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func TestScale(t *testing.T) {
	t.Parallel()
	s := scale{low: 0, high: 14.3}
	s.nice()
	if s.high != 15 && s.high != 16 || len(s.ticks()) < 3 || len(s.ticks()) > 8 || s.at(s.high, 10, 110) != 110 || s.at(0, 10, 110) != 10 {
		t.Errorf("%+v: %v", s, s.ticks())
	}
	log := scale{log: true, low: 1e-4, high: 100, names: map[float64]string{1e-4: "0"}}
	if ticks := log.ticks(); len(ticks) != 7 || log.text(ticks[0]) != "0" || math.Abs(log.at(0.1, 0, 60)-30) > 1e-9 || log.at(0, 0, 60) != 0 {
		t.Errorf("%v, %v", log.ticks(), log.at(0.1, 0, 60))
	}
	flat := scale{}
	flat.fit([]float64{0, 0})
	if v := flat.at(0, 0, 1); math.IsNaN(v) {
		t.Error("a flat line is nowhere")
	}
}
