// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mainFile is the main configuration, in the version that the options ask for. It keeps the daemon away from every
// directory that a containerd of this machine might use.
func (d *Daemon) mainFile() (string, error) {
	var text string
	switch d.opts.Version {
	case 2:
		text = mainV2
	case 3, 4:
		text = mainV3
	default:
		return "", fmt.Errorf("write main configuration: version %d, want 2, 3 or 4", d.opts.Version)
	}
	return strings.NewReplacer(
		"VERSION", fmt.Sprint(d.opts.Version),
		"DIR", d.Dir,
		"ROOT", d.Root,
		"PAUSE", d.opts.Pause,
		"SERVERS", d.servers(),
	).Replace(text), nil
}

// servers are the addresses: stanzas of plugins from version 4 on.
func (d *Daemon) servers() string {
	format := `[grpc]
  address = %q
[ttrpc]
  address = %q
[debug]
  address = %q
[metrics]
  address = %q
`
	if d.opts.Version == 4 {
		format = `[plugins."io.containerd.server.v1.grpc"]
  address = %q
[plugins."io.containerd.server.v1.ttrpc"]
  address = %q
[plugins."io.containerd.server.v1.debug"]
  address = %q
[plugins."io.containerd.server.v1.metrics"]
  address = %q
`
	}
	return fmt.Sprintf(format, d.Address, d.Address+".ttrpc", d.Address+".debug", d.metrics)
}

const mainHead = `version = VERSION
root = "ROOT"
state = "DIR/state"
temp = "DIR/temp"
imports = ["DIR/conf.d/*.toml"]
disabled_plugins = ["io.containerd.nri.v1.nri"]

SERVERS
[plugins."io.containerd.internal.v1.opt"]
  path = "DIR/opt"
[plugins."io.containerd.image-verifier.v1.bindir"]
  bin_dir = "DIR/verifiers"
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "DIR/s"
`

const mainV3 = mainHead + `
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "PAUSE"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  cdi_spec_dirs = ["DIR/cdi"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["DIR/cni/bin"]
    conf_dir = "DIR/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      Root = "DIR/runc"
`

const mainV2 = mainHead + `
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "PAUSE"
  restrict_oom_score_adj = true
  cdi_spec_dirs = ["DIR/cdi"]
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "DIR/cni/bin"
    conf_dir = "DIR/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "DIR/runc"
`

// ConfigFile is the main configuration file. It imports conf.d beside it.
func (d *Daemon) ConfigFile() string { return filepath.Join(d.Dir, "config.toml") }

// writeConfig writes the main file and the drop-ins of the options, and removes drop-ins of before.
func (d *Daemon) writeConfig() error {
	text := d.opts.Main
	if text == "" {
		var err error
		if text, err = d.mainFile(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.ConfigFile(), []byte(text), 0o600); err != nil {
		return err
	}
	dir := filepath.Join(d.Dir, "conf.d")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files := map[string]string{"50-test.toml": d.opts.Config}
	for name, text := range d.opts.DropIns {
		files[name] = text
	}
	for name, text := range files {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
