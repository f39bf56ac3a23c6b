package main

// #include "abi.h"
import "C"

import (
	"net"

	"tailscale.com/net/netmon"
	"tailscale.com/net/netns"
)

// stand-in for a network card: a documentation address (RFC 5737) that no
// packet can be delivered to.
var standIn = netmon.Interface{
	Interface: &net.Interface{Index: 4242, MTU: 1500, Name: "cmesh0", Flags: net.FlagUp | net.FlagRunning},
	AltAddrs:  []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 1).To4(), Mask: net.CIDRMask(32, 32)}},
}

// loopbackAllowed is guarded by the table of nodes.
var loopbackAllowed bool

//export cmesh_allow_loopback_only
func cmesh_allow_loopback_only() (code C.int) {
	defer recovered(nil, &code)
	nodes.Lock()
	defer nodes.Unlock()
	if loopbackAllowed {
		return 0
	}
	if len(nodes.byID) > 0 {
		return C.EBUSY
	}
	// An ordinary user's nodes bind their sockets to the interface of the default
	// route, which keeps them off loopback: 3 s to come up, and relayed for good.
	netns.SetEnabled(false)
	netmon.RegisterInterfaceGetter(interfacesOrStandIn)
	loopbackAllowed = true
	return 0
}

// interfacesOrStandIn lists the machine's interfaces. When none is usable but
// loopback it adds the stand-in, without which a node waits for a network for
// ever; when there is one, its own addresses stay on the machine anyway.
func interfacesOrStandIn() ([]netmon.Interface, error) {
	found, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netmon.Interface
	usable := false
	for i := range found {
		all = append(all, netmon.Interface{Interface: &found[i]})
		usable = usable || carriesTraffic(&found[i])
	}
	if !usable {
		all = append(all, standIn)
	}
	return all, nil
}

func carriesTraffic(i *net.Interface) bool {
	if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
		return false
	}
	addrs, err := i.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok && ipnet.IP.IsGlobalUnicast() {
			return true
		}
	}
	return false
}
