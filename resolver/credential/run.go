// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berth-edge/berth/resolver/permission"
)

// What a helper may cost.
const (
	defaultHelperTimeout = 10 * time.Second
	maxOutput            = 64 << 10
	maxErrorOutput       = 4 << 10
	maxHelpersAtOnce     = 4 // of one registry
	// outputDelay is how long output is waited for after a helper ended: a child that it left may hold it open.
	outputDelay = 500 * time.Millisecond
)

// DefaultHelperDirs are where helpers are looked for when [Source.HelperDirs] does not say.
const DefaultHelperDirs = "/usr/local/bin:/usr/bin:/bin:/opt/bin"

// inherited are the variables that a helper gets of this process's environment.
var inherited = []string{"PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"}

// programs runs the helpers of one registry. There is no shell, and nothing is looked up in $PATH.
type programs struct {
	dirs    []string
	environ []string
	timeout time.Duration
	slots   *slots
}

func newPrograms(dirs string, timeout time.Duration) *programs {
	if dirs == "" {
		dirs = DefaultHelperDirs
	}
	if timeout == 0 {
		timeout = defaultHelperTimeout
	}
	return &programs{dirs: strings.Split(dirs, ":"), environ: environ(), timeout: timeout, slots: newSlots(maxHelpersAtOnce)}
}

var programName = pattern(`^[A-Za-z0-9._-]+$`)

// CheckProgram reports why a name cannot be that of a helper: it is not made of letters, digits, ".", "_" and "-".
func CheckProgram(name string) error {
	if !programName().MatchString(name) || name == "." || name == ".." {
		return errors.New(`is not the name of a helper; want letters, digits, ".", "_" and "-" alone`)
	}
	return nil
}

// find returns the path of a program, which is a name in one of the directories or an absolute path, and refuses one that
// is not there, cannot be run, or that others can write.
func (p *programs) find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, checkProgramFile(name)
	}
	if err := CheckProgram(name); err != nil {
		return "", err
	}
	for _, dir := range p.dirs {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			continue
		}
		return path, checkProgramFile(path)
	}
	return "", fmt.Errorf("not found in %s; install it there, or add its directory to helper_dirs", strings.Join(p.dirs, ", "))
}

func checkProgramFile(path string) error {
	if err := permission.Writable(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: is not a regular file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s: is not executable; chmod +x %s", path, path)
	}
	return nil
}

// exitError is how a helper failed that was run: what it wrote, which may be secret, and what may be shown of it.
type exitError struct {
	text   string
	stdout string
}

func (e *exitError) Error() string { return e.text }

// invocation is one run of a program.
type invocation struct {
	program string // see [programs.find]
	args    []string
	env     []string // beside what is inherited
	stdin   string
}

// run returns what a program wrote. Its errors name the program and have nothing of its standard output.
func (p *programs) run(ctx context.Context, i invocation) (string, error) {
	name := filepath.Base(i.program)
	path, err := p.find(i.program)
	if err != nil {
		return "", fmt.Errorf("helper %q: %w", name, err)
	}
	// A run may take its limit and the delay; those who wait began before it, and must not give up as it ends.
	release, err := p.slots.take(ctx, name, p.timeout+4*outputDelay)
	if err != nil {
		return "", fmt.Errorf("helper %q: %w", name, err)
	}
	defer release()
	limited, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	stdout, stderr := &capture{max: maxOutput, full: cancel}, &capture{max: maxErrorOutput}
	err = start(limited, path, append(slices.Clone(p.environ), i.env...), i, stdout, stderr)
	switch {
	case stdout.over:
		return "", fmt.Errorf("helper %q: wrote more than %d bytes and was killed", name, maxOutput)
	case ctx.Err() != nil:
		return "", fmt.Errorf("helper %q: %w", name, ctx.Err())
	case limited.Err() != nil:
		return "", fmt.Errorf("helper %q: no answer in %s; it was killed", name, p.timeout)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well, and left a child that held the output
	case err != nil:
		text := fmt.Sprintf("helper %q: %v", name, err)
		if hint := printableHint(stderr.kept.String(), stdout.kept.String(), i.env); hint != "" {
			text += ": " + hint
		}
		return "", &exitError{text, stdout.kept.String()}
	}
	return stdout.kept.String(), nil
}

// start runs a program in a process group of its own, of which nothing is left when it returns.
func start(ctx context.Context, path string, env []string, i invocation, stdout, stderr *capture) error {
	cmd := exec.CommandContext(ctx, path, i.args...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(i.stdin), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	group := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = group, outputDelay
	if err := cmd.Start(); err != nil {
		return err
	}
	defer group() //nolint:errcheck // there is none left as a rule
	return cmd.Wait()
}

// capture keeps the first max bytes that are written to it.
type capture struct {
	kept bytes.Buffer // not embedded: its ReadFrom would go past Write
	max  int
	over bool
	full func() // called once there is more; nil lets the rest pass by
}

var errFull = errors.New("too much output")

func (c *capture) Write(b []byte) (int, error) {
	room := c.max - c.kept.Len()
	if len(b) <= room {
		return c.kept.Write(b)
	}
	c.kept.Write(b[:room])
	if c.full == nil {
		return len(b), nil
	}
	c.over = true
	c.full()
	return room, errFull
}
