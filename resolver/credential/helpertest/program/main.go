// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command program is a credential helper that does what the script beside it says. See package helpertest.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/berth-edge/berth/resolver/credential/helpertest"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "sleep" {
		time.Sleep(10 * time.Minute)
		return
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 99
	}
	os.Exit(code)
}

// run returns the code to end with.
func run() (int, error) {
	path, err := os.Executable()
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(path + ".script")
	if err != nil {
		return 0, err
	}
	var s helpertest.Script
	if err := json.Unmarshal(text, &s); err != nil {
		return 0, err
	}
	if s.Stubborn {
		signal.Ignore(syscall.SIGTERM)
	}
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 0, err
	}
	pids := []int{os.Getpid()}
	if s.Child {
		child := exec.Command(path, "sleep") //nolint:noctx // it outlives this process
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: s.Detached}
		if err := child.Start(); err != nil {
			return 0, err
		}
		pids = append(pids, child.Process.Pid)
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	if err := note(path+".runs", helpertest.Run{Stdin: string(stdin), Args: os.Args[1:], Env: os.Environ(), Dir: dir, PIDs: pids}); err != nil {
		return 0, err
	}
	time.Sleep(s.Sleep)
	write(s, string(stdin))
	return s.Exit, nil
}

// note writes down a run, in one write so that those of several processes do not mix.
func note(path string, r helpertest.Run) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}

func write(s helpertest.Script, stdin string) {
	var request struct{ Image string }
	_ = json.Unmarshal([]byte(stdin), &request)
	host, _, _ := strings.Cut(request.Image, "/")
	fmt.Fprint(os.Stderr, s.Stderr)
	fmt.Print(strings.NewReplacer("${STDIN}", stdin, "${IMAGE}", request.Image, "${HOST}", host).Replace(s.Stdout))
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for left := s.Flood; left > 0; left -= int64(len(chunk)) {
		if _, err := os.Stdout.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
			return
		}
	}
}
