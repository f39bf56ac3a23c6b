package main

// #include "abi.h"
import "C"

import (
	"errors"

	"tailscale.com/tailcfg"
)

//export cmesh_ping
func cmesh_ping(sd C.int, peer *C.cchar, timeoutMS, op C.int, out *C.char, outlen C.size_t,
	needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	ctx, cancel, err := n.within(timeoutMS, op)
	if err != nil {
		return a.fail(err)
	}
	defer cancel()
	ip, err := resolvePeer(ctx, n, goText(peer))
	if err != nil {
		return a.fail(ended(ctx, n, err))
	}
	res, err := lc.Ping(ctx, ip, tailcfg.PingDisco)
	if err != nil {
		return a.fail(ended(ctx, n, err))
	}
	if res.Err != "" {
		return a.fail(errors.New(res.Err))
	}
	return a.json(map[string]any{
		"latency_s": res.LatencySeconds,
		"direct":    res.Endpoint,
		"relay":     res.DERPRegionCode,
	})
}
