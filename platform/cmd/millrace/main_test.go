package main

import (
	"context"
	"crypto/x509/pkix"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"millrace/broker/auth/authtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"millrace": func() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}})
}

// The scripts are the commands as a person types them. Each `serve` binds port 0 and says where.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		// Certificates for localhost of an authority in ca.crt.
		Setup: func(env *testscript.Env) error {
			ca := authtest.NewAuthority(t)
			ca.WriteAuthority(env.WorkDir)
			for name, end := range map[string]time.Duration{"board": time.Hour, "next": 2 * time.Hour, "ann": time.Hour, "late": -time.Hour} {
				ca.Write(env.WorkDir, name, ca.Issue(pkix.Name{CommonName: name}, time.Now().Add(end)))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// status CODE millrace ARGS...: runs it and wants that exit code.
			"status": status,

			// paste NAME [without mosquitto]: runs the line `serve --sim` prints under the name.
			"paste": pasted,

			// secret FILE PROTOCOL: writes the first admin's login, which the broker has shown, as client properties.
			"secret": secret,

			// fingerprint VARIABLE DIR: that of the certificate there.
			"fingerprint": fingerprint,

			// nobodys DIR: makes all there another user's, where the test may. owned DIR: wants all there to be of one user.
			"nobodys": nobodys,
			"owned":   ownedBy,

			"serve": serveInBackground,
			"halt":  halt,
			"hup":   hup,

			// logged TEXT: waits until the broker's log has it.
			"logged": logged,
		},
	})
}
