package main

// #include "abi.h"
import "C"

import (
	"runtime"
	"runtime/debug"
)

//export cmesh_counters
func cmesh_counters(out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	nodes.Lock()
	nodeCount := len(nodes.byID)
	nodes.Unlock()
	operations.Lock()
	opCount := len(operations.byID)
	operations.Unlock()
	return a.json(map[string]any{
		"goroutines":  runtime.NumGoroutine(),
		"nodes":       nodeCount,
		"listeners":   live.listeners.Load(),
		"connections": live.connections.Load(),
		"watches":     live.watches.Load(),
		"operations":  opCount,
		"heap_bytes":  mem.HeapInuse,
	})
}

//export cmesh_set_memory_limit
func cmesh_set_memory_limit(limitBytes C.longlong) (code C.int) {
	defer recovered(nil, &code)
	if limitBytes <= 0 {
		return C.EINVAL
	}
	debug.SetMemoryLimit(int64(limitBytes))
	return 0
}

// version names the tailnet code; tsnet's own string lacks a build stamp here.
var version = C.CString("1.102.5")

//export cmesh_version
func cmesh_version() *C.cchar { return (*C.cchar)(version) }
