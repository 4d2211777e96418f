package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

func trim(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// figure prints commands per second or microseconds in few digits.
func figure(f float64, unit string) string {
	if unit == "cmd/s" {
		if f >= 1e6 {
			return fmt.Sprintf("%.2fM/s", f/1e6)
		}
		return fmt.Sprintf("%.1fk/s", f/1e3)
	}
	return fmt.Sprintf("%.0f %s", f, unit)
}

const header = "| comparison | goroutines | peer | ours | ours / peer (min–max) | allocs peer → ours | asked | met |\n|---|---|---|---|---|---|---|---|\n"

// row writes one line of the table.
func row(w io.Writer, r result) {
	if r.Err != "" {
		fmt.Fprintf(w, "| %s | %d | failed: %s ||||||\n", r.Name, r.Goroutines, strings.ReplaceAll(r.Err, "|", "/"))
		return
	}
	fmt.Fprintf(w, "| %s | %d | %s: %s | %s | **%.2f** (%.2f–%.2f) | %.1f → %.1f | %s | %s |\n",
		r.Name, r.Goroutines, r.Peer, figure(r.PeerFigure, r.Unit), figure(r.OursFigure, r.Unit),
		r.Ratio, r.Low, r.High, r.PeerAllocs, r.OursAllocs, r.Want, r.Met)
}
