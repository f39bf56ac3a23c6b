// Package main is libtailscale's C API over tsnet, plus the calls cmesh needs
// and it lacks. It is built as a C archive and linked into cmesh._native.
//
// Every exported function recovers from panics, checks its handles and lengths
// and never keeps a pointer that C gave it.
package main

import (
	"runtime/debug"

	"tailscale.com/envknob"
)

// defaultMemoryLimit bounds the Go heap: bulk transfer is otherwise bound by
// the collector's pace (600 MB), not by the data in flight.
const defaultMemoryLimit = 128 << 20

func init() {
	// The Go runtime of an archive sees the environment the process started
	// with, so knobs set by Python would come too late.
	envknob.SetNoLogsNoSupport()
	envknob.Setenv("TS_DISABLE_PORTMAPPER", "true")
	debug.SetMemoryLimit(defaultMemoryLimit)
}

func main() {}
