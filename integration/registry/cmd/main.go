// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

// Command registry is a registry for trying things out: distribution's, with the filesystem driver and basic
// authentication only, and TLS from an authority that it makes itself. Each request is a line on standard output.
//
// The password is read from the environment, REGISTRY_PASSWORD.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/berth-edge/berth/integration/registry"
)

func main() {
	var opts registry.Options
	flag.StringVar(&opts.Addr, "address", "127.0.0.1:5000", "`host:port` to listen on; port 0 takes a free one")
	flag.StringVar(&opts.Storage, "storage", "", "`directory` of the images (default a temporary one)")
	flag.BoolVar(&opts.Plain, "plain", false, "HTTP without TLS")
	flag.DurationVar(&opts.Delay, "delay", 0, "added to every round trip")
	names := flag.String("names", "", "`names` and addresses in the certificate besides the loopback ones, with commas")
	ca := flag.String("ca", "ca.pem", "`file` to write the authority's certificate to, another at each start")
	user := flag.String("user", "", "the one `user` who may pull and push, with the password of the environment's REGISTRY_PASSWORD (default anybody may)")
	flag.Parse()
	logrus.SetLevel(logrus.WarnLevel) // distribution's
	if *names != "" {
		opts.Names = strings.Split(*names, ",")
	}
	if *user != "" {
		password := os.Getenv("REGISTRY_PASSWORD")
		if password == "" {
			fmt.Fprintln(os.Stderr, "registry: -user wants a password in REGISTRY_PASSWORD")
			os.Exit(2)
		}
		opts.Users = map[string]string{*user: password}
	}
	if err := run(opts, *ca); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// run serves until it is told to stop.
func run(opts registry.Options, ca string) error {
	opts.Log = &registry.Log{}
	opts.Middleware = printRequests
	r, err := registry.New(opts)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.CA != nil {
		if err := os.WriteFile(ca, r.CA.PEM(), 0o644); err != nil {
			return err
		}
	}
	fmt.Println("listening on", r.URL())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	<-ctx.Done()
	return nil
}

func printRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(time.Now().Format("15:04:05.000"), r.Method, r.Host+r.URL.RequestURI())
		next.ServeHTTP(w, r)
	})
}
