package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// openTailnet loads the tailnet kept in dir, or begins a new one. With its
// keys kept, nodes find a restarted control server again by themselves.
func openTailnet(dir string) (*tailnet, error) {
	t := &tailnet{
		dir:      dir,
		changed:  make(chan struct{}),
		Noise:    key.NewMachine(),
		Users:    map[string]tailcfg.UserID{},
		AuthKeys: map[string]*authKey{},
		logins:   map[string]*login{},
	}
	if dir == "" {
		return t, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(t.file())
	if errors.Is(err, fs.ErrNotExist) {
		t.saveLocked()
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, fmt.Errorf("`%s`: %w", t.file(), err)
	}
	return t, nil
}

func (t *tailnet) file() string { return filepath.Join(t.dir, "tailnet.json") }

func (t *tailnet) saveLocked() {
	if t.dir == "" {
		return
	}
	text, err := json.MarshalIndent(t, "", " ")
	if err == nil {
		fresh := t.file() + ".new"
		if err = os.WriteFile(fresh, text, 0o600); err == nil {
			err = os.Rename(fresh, t.file())
		}
	}
	if err != nil {
		log.Printf("save: %v", err)
	}
}
