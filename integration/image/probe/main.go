// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command probe is the one program inside the test images: "probe pause" waits for SIGTERM, as the pause image of a
// pod does, and "probe hello WORDS" prints its words.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
	case len(os.Args) > 2 && os.Args[1] == "hello":
		fmt.Println("hello", strings.Join(os.Args[2:], " "))
	default:
		fmt.Fprintln(os.Stderr, "usage: probe pause | probe hello WORDS")
		os.Exit(2)
	}
}
