package main

// #include "abi.h"
import "C"

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

const watchMask = ipn.NotifyInitialState | ipn.NotifyInitialStatus | ipn.NotifyInitialHealthState |
	ipn.NotifyPeerChanges | ipn.NotifyPeerPatches

// rewatchDelay separates attempts when the bus drops a reader that fell behind.
const rewatchDelay = 100 * time.Millisecond

// news is one line of a watch: what changed, nothing else.
type news struct {
	State        *string    `json:"state,omitempty"`
	LoginURL     *string    `json:"login_url,omitempty"`
	Error        *string    `json:"error,omitempty"`
	Health       *[]string  `json:"health,omitempty"`
	KeyExpiry    *time.Time `json:"key_expiry,omitempty"`
	PeersChanged []string   `json:"peers_changed,omitempty"`
	PeersRemoved []string   `json:"peers_removed,omitempty"`
}

func (w news) empty() bool {
	return w.State == nil && w.LoginURL == nil && w.Error == nil && w.Health == nil &&
		w.KeyExpiry == nil && len(w.PeersChanged) == 0 && len(w.PeersRemoved) == 0
}

// watch turns bus notifications into lines, merging what a slow reader has not
// read yet, so memory stays bounded and the bus never has to wait.
type watch struct {
	node  *node
	names map[tailcfg.NodeID]string // removals carry numeric ids only
	began bool                      // names holds what a bus began with

	mu      sync.Mutex
	pending news
	wake    chan struct{}
}

//export cmesh_watch
func cmesh_watch(sd C.int, fdOut *C.int, out *C.char, outlen C.size_t, needed *C.size_t) (code C.int) {
	a := answer{out, outlen, needed}
	defer a.recovered(&code)
	n, lc, err := startedNode(sd)
	if err != nil {
		return a.fail(err)
	}
	if fdOut == nil {
		return a.fail(codedError{C.EINVAL, "fd_out is NULL"})
	}
	ctx, cancel := context.WithCancel(n.ctx)
	bus, err := lc.WatchIPNBus(ctx, watchMask)
	if err != nil {
		cancel()
		return a.fail(n.orClosed(err))
	}
	p, err := newPair()
	if err != nil {
		bus.Close()
		cancel()
		return a.fail(err)
	}
	w := &watch{node: n, names: map[tailcfg.NodeID]string{}, wake: make(chan struct{}, 1)}
	w.run(ctx, cancel, lc, bus, p)
	*fdOut = C.int(p.theirs)
	return a.json(struct{}{})
}

// run starts the three goroutines of a watch; each ends when ctx does.
func (w *watch) run(ctx context.Context, cancel context.CancelFunc, lc *local.Client,
	bus *local.IPNBusWatcher, p pair) {
	live.watches.Add(1)
	guarded(w.node, func() {
		defer cancel()
		waitHangup(p)
	})
	guarded(w.node, func() {
		defer cancel()
		w.read(ctx, lc, bus)
	})
	guarded(w.node, func() {
		defer live.watches.Add(-1)
		defer p.ours.Close()
		defer cancel()
		w.write(ctx, p)
	})
	context.AfterFunc(ctx, func() { p.ours.Close() }) // ends a blocked write
}

func (w *watch) read(ctx context.Context, lc *local.Client, bus *local.IPNBusWatcher) {
	for {
		n, err := bus.Next()
		if err == nil {
			w.add(w.translate(&n))
			continue
		}
		bus.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(rewatchDelay):
			}
			if bus, err = lc.WatchIPNBus(ctx, watchMask); err == nil {
				break
			}
		}
	}
}

func (w *watch) translate(n *ipn.Notify) news {
	var out news
	if n.State != nil {
		state := n.State.String()
		out.State = &state
	}
	out.LoginURL, out.Error = n.BrowseToURL, n.ErrMessage
	if n.Health != nil {
		texts := []string{}
		for _, warning := range n.Health.Warnings {
			texts = append(texts, warning.Text)
		}
		slices.Sort(texts)
		out.Health = &texts
	}
	if st := n.InitialStatus; st != nil && st.Self != nil {
		out.KeyExpiry = st.Self.KeyExpiry
	}
	if n.SelfChange != nil {
		out.KeyExpiry = present(n.SelfChange.KeyExpiry)
	}
	w.translatePeers(n, &out)
	return out
}

func (w *watch) translatePeers(n *ipn.Notify, out *news) {
	if n.InitialStatus != nil {
		w.resync(n.InitialStatus, out)
	}
	for _, p := range n.PeersChanged {
		w.names[p.ID] = string(p.StableID)
		out.PeersChanged = append(out.PeersChanged, string(p.StableID))
	}
	for _, patch := range n.PeerChangedPatch {
		if patch.Online == nil && patch.CapMap == nil && patch.Key == nil && patch.KeyExpiry == nil {
			continue // where a peer is, not who it is
		}
		if name, ok := w.names[patch.NodeID]; ok {
			out.PeersChanged = append(out.PeersChanged, name)
		}
	}
	for _, id := range n.PeersRemoved {
		if name, ok := w.names[id]; ok {
			out.PeersRemoved = append(out.PeersRemoved, name)
			delete(w.names, id)
		}
	}
}

// resync takes the peers from a bus that starts. When it started before, what
// happened in between is unknown: every peer may have changed, or gone.
func (w *watch) resync(st *ipnstate.Status, out *news) {
	old, again := w.names, w.began
	w.names, w.began = map[tailcfg.NodeID]string{}, true
	for _, p := range st.Peer {
		w.names[p.NodeID] = string(p.ID)
		if again {
			out.PeersChanged = append(out.PeersChanged, string(p.ID))
		}
	}
	for id, name := range old {
		if _, present := w.names[id]; !present {
			out.PeersRemoved = append(out.PeersRemoved, name)
		}
	}
}

// add merges what is new into what the reader has not had yet: the latest of
// each value, the union of the peers, a removal before an older change.
func (w *watch) add(n news) {
	if n.empty() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &w.pending
	p.State = latest(p.State, n.State)
	p.LoginURL = latest(p.LoginURL, n.LoginURL)
	p.Error = latest(p.Error, n.Error)
	p.Health = latest(p.Health, n.Health)
	p.KeyExpiry = latest(p.KeyExpiry, n.KeyExpiry)
	p.PeersChanged, p.PeersRemoved = move(p.PeersChanged, p.PeersRemoved, n.PeersChanged)
	p.PeersRemoved, p.PeersChanged = move(p.PeersRemoved, p.PeersChanged, n.PeersRemoved)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func latest[T any](old, now *T) *T {
	if now != nil {
		return now
	}
	return old
}

// move adds ids to one list and takes them from the other.
func move(to, from, ids []string) (newTo, newFrom []string) {
	for _, id := range ids {
		from = slices.DeleteFunc(from, func(other string) bool { return other == id })
		if !slices.Contains(to, id) {
			to = append(to, id)
		}
	}
	return to, from
}

func (w *watch) write(ctx context.Context, p pair) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.mu.Lock()
		pending := w.pending
		w.pending = news{}
		w.mu.Unlock()
		if pending.empty() {
			continue // merged into the line before
		}
		line, err := json.Marshal(pending)
		if err != nil {
			return
		}
		if _, err := p.ours.Write(append(line, '\n')); err != nil {
			return
		}
	}
}
