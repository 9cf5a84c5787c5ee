// SPDX-FileCopyrightText: The Berth Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"log"
	"net"
	"net/http"
)

// server is one listener and what answers on it.
type server struct {
	http.Server
	addr string
}

// listen serves h on addr, or on l if that is set, as the options say: logged, delayed, with TLS.
func (r *Registry) listen(addr string, l net.Listener, h http.Handler, delay bool) (_ *server, err error) {
	if l == nil {
		if l, err = net.Listen("tcp", addr); err != nil {
			return nil, err
		}
	}
	s := &server{addr: l.Addr().String()}
	if r.opts.Middleware != nil {
		h = r.opts.Middleware(h)
	}
	s.Handler = r.Log.Handler(h)
	s.ConnState = r.Log.connState
	s.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what many tests are about
	if delay && r.opts.Delay > 0 {
		l = delayListener{Listener: l, d: r.opts.Delay}
	}
	if r.opts.Plain {
		go func() { _ = s.Serve(l) }()
		return s, nil
	}
	if s.TLSConfig, err = r.CA.config(r.opts.Names); err != nil {
		_ = l.Close()
		return nil, err
	}
	r.Log.count(s.TLSConfig)
	if r.opts.TLS != nil {
		r.opts.TLS(s.TLSConfig)
	}
	if r.opts.HTTP1 {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(true)
	}
	go func() { _ = s.ServeTLS(l, "", "") }()
	return s, nil
}

// listenPlain serves h on a free port of loopback, neither logged nor secured.
func listenPlain(h http.Handler) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{addr: l.Addr().String()}
	s.Handler = h
	go func() { _ = s.Serve(l) }()
	return s, nil
}

func (s *server) close() { _ = s.Close() }
