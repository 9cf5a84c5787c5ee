// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/berth-edge/berth/resolver/endpoint"
	"github.com/berth-edge/berth/resolver/registrytest"
)

// nameServer answers every question over UDP: that a name has the address of loopback, or with an error, or not at all.
type nameServer struct {
	// answer is the code of the answer; silent is none.
	answer atomic.Uint32
}

const silentServer = ^uint32(0)

// serveNames has the process ask s alone, until the test ends.
func serveNames(t *testing.T, s *nameServer) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		packet := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			if answer, ok := s.respond(packet[:n]); ok {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	system := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = system
		conn.Close()
	})
}

func (s *nameServer) respond(packet []byte) (answer []byte, ok bool) {
	var m dnsmessage.Message
	code := s.answer.Load()
	if m.Unpack(packet) != nil || len(m.Questions) != 1 || code == silentServer {
		return nil, false
	}
	q := m.Questions[0]
	m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: dnsmessage.RCode(code)}
	m.Additionals = nil
	if m.RCode == dnsmessage.RCodeSuccess && q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	answer, err := m.Pack()
	return answer, err == nil
}

// R3: a name that does not exist is told from a name server that fails or is silent, and the pull that follows an answer works.
func TestNameServer(t *testing.T) { // not parallel: a process has one resolver
	image := registrytest.NewImage("names", 1<<10)
	authority := registrytest.NewAuthority(t)
	pair, _, _ := authority.Issue(t, "direct.invalid")
	config := authority.Server(t)
	config.Certificates = []tls.Certificate{pair}
	server := registrytest.Serve(t, config, registrytest.Registry{Image: image})
	host := strings.Replace(server.Host, "127.0.0.1", "direct.invalid", 1) // which the proxy of other tests is not for
	var names nameServer
	serveNames(t, &names)
	opts := trusting(authority)
	opts.DialTimeout = 500 * time.Millisecond
	e := newEndpoint(t, host, login(), opts)
	for _, tt := range []struct {
		name   string
		answer uint32
		want   string
		cause  endpoint.Cause
	}{
		{"NXDOMAIN", uint32(dnsmessage.RCodeNameError), "host not found: lookup direct.invalid", endpoint.NoSuchHost},
		{"SERVFAIL", uint32(dnsmessage.RCodeServerFailure), "the name server failed: lookup direct.invalid", endpoint.NoNameServer},
		{"REFUSED", uint32(dnsmessage.RCodeRefused), "the name server failed: lookup direct.invalid", endpoint.NoNameServer},
		{"silent", silentServer, "the name server did not answer: lookup direct.invalid", endpoint.NoNameServer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			names.answer.Store(tt.answer)
			err := pull(t.Context(), e, "app", image)
			wantError(t, err, host+": "+tt.want)
			var own *endpoint.Error
			if !errors.As(err, &own) || own.Cause != tt.cause || !own.Down() {
				t.Errorf("got %v, want cause %s, of a registry that was not reached", err, tt.cause)
			}
			names.answer.Store(uint32(dnsmessage.RCodeSuccess))
			if err := pull(t.Context(), e, "app", image); err != nil {
				t.Errorf("got %v once the name server is right, want the image", err)
			}
			e.CloseIdle()
		})
	}
}
