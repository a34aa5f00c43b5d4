package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/broker/disk"
	"millrace/platform/config"
	"millrace/platform/identity"
)

// directory is the data directory that an offline command works on.
type directory struct {
	data, file string
	changed    func(string) bool
}

func (d *directory) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&d.data, "data", "", "data directory; default: log.dirs")
	cmd.PersistentFlags().StringVar(&d.file, "config", "", "configuration file, for log.dirs, [security] and the hosts of listeners")
	d.changed = cmd.PersistentFlags().Changed
}

// settings is the file, with the data directory that is meant.
func (d *directory) settings() (*config.Config, error) {
	cfg, err := load(d.file)
	if err == nil && d.changed("data") {
		cfg.Broker.LogDirs = d.data
	}
	return cfg, err
}

// formatted is settings of a directory that is a board's.
func (d *directory) formatted() (*config.Config, error) {
	cfg, err := d.settings()
	if err != nil {
		return nil, err
	}
	if _, err := broker.ReadMeta(disk.OS{}, cfg.Broker.LogDirs); errors.Is(err, broker.ErrNotFormatted) || errors.Is(err, fs.ErrNotExist) {
		return nil, fail(exitMissing, "%w; the first `serve` makes a board's key and certificate", err)
	}
	return cfg, nil
}

func (c *command) cert() *cobra.Command {
	var d directory
	var text bool
	show := &cobra.Command{
		Use: "show", Short: "Print the certificate that TLS listeners show", Args: cobra.NoArgs,
		Long: "Print the certificate that TLS listeners show: the board's own, or that of tls.cert.file. A client believes it by the\nfingerprint, by the pin of its public key, or by the certificate itself, which --pem prints.",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := d.formatted()
			if err != nil {
				return err
			}
			i, from, err := shown(cfg)
			if err != nil {
				return err
			}
			if text {
				_, err := c.out.Write(i.PEM())
				return err
			}
			return c.certificate(i, from)
		},
	}
	show.Flags().BoolVar(&text, "pem", false, "print the certificate itself, for clients; never the key")

	var newKey, force bool
	renew := &cobra.Command{
		Use: "renew", Short: "Make a new certificate for the names and addresses the board has now", Args: cobra.NoArgs,
		Long: "Make a new certificate for the names and addresses the board has now. The key stays, so that clients which pin it go on\nbelieving. A broker that runs shows it to new connections after SIGHUP.",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := d.formatted()
			if err != nil {
				return err
			}
			files := broker.IdentityFiles(disk.OS{}, cfg.Broker.LogDirs)
			old, err := identity.Load(files)
			switch {
			case err != nil && !newKey:
				return fmt.Errorf("the board's key: %w; --new-key makes another", err)
			case err == nil && !old.Own() && !force:
				return fail(exitUsage, "the certificate of %s was imported: import its successor, or have the board vouch for itself again with --self-signed", old.Leaf().Subject)
			}
			names := identity.Here(cfg.Hosts()...)
			var next *identity.Identity
			if newKey {
				next, err = identity.New(names, nil)
			} else {
				next, err = identity.New(names, old.Key())
			}
			if err != nil {
				return err
			}
			return c.keep(cfg, files, next)
		},
	}
	renew.Flags().BoolVar(&newKey, "new-key", false, "make a new key too: all clients need the new certificate")
	renew.Flags().BoolVar(&force, "self-signed", false, "even where an imported certificate is given up")

	var certFile, keyFile, caFile string
	bring := &cobra.Command{
		Use: "import", Short: "Have the board show a certificate that somebody else has signed", Args: cobra.NoArgs,
		Long: "Have the board show a certificate that somebody else has signed, in place of its own. The key must be the certificate's,\nand each certificate of the file must have signed the one before it. With --ca they must lead to one of its authorities;\nwhat lies between is taken from there. A broker that runs shows it to new connections after SIGHUP.",
		RunE: func(*cobra.Command, []string) error {
			if certFile == "" || keyFile == "" {
				return fail(exitUsage, "--cert and --key are needed")
			}
			cfg, err := d.formatted()
			if err != nil {
				return err
			}
			var parts [3][]byte
			for n, file := range []string{certFile, keyFile, caFile} {
				if file == "" {
					continue
				}
				if parts[n], err = readSmall(file); errors.Is(err, fs.ErrNotExist) {
					return coded{err, exitMissing}
				} else if err != nil {
					return err
				}
			}
			next, warnings, err := identity.Import(parts[0], parts[1], parts[2], time.Now())
			if err != nil {
				return err
			}
			for _, w := range warnings {
				c.note("warning: %s", w)
			}
			return c.keep(cfg, broker.IdentityFiles(disk.OS{}, cfg.Broker.LogDirs), next)
		},
	}
	bring.Flags().StringVar(&certFile, "cert", "", "PEM file: the board's certificate, then those between it and the authority")
	bring.Flags().StringVar(&keyFile, "key", "", "PEM file: its key, not encrypted")
	bring.Flags().StringVar(&caFile, "ca", "", "PEM file: the authorities it must lead to")
	parent := group("cert", "Show, renew or replace the certificate of a board", show, renew, bring)
	d.flags(parent)
	return parent
}

// shown is what TLS listeners show with a configuration, and where that is from.
func shown(cfg *config.Config) (*identity.Identity, string, error) {
	if cfg.OwnCertificate() {
		i, err := identity.Load(broker.IdentityFiles(disk.OS{}, cfg.Broker.LogDirs))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", fail(exitMissing, "the board has no key yet: its next start makes one")
		}
		return i, cfg.Broker.LogDirs, err
	}
	cert, err := readSmall(cfg.Security.CertFile)
	if err != nil {
		return nil, "", err
	}
	key, err := readSmall(cfg.Security.KeyFile)
	if err != nil {
		return nil, "", err
	}
	i, _, err := identity.Import(cert, key, nil, time.Now())
	return i, cfg.Security.CertFile, err
}

// asOwner has the rest of the program run as the owner of a data directory where root has called it: what root writes there
// the broker could not read.
func asOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid == 0 {
		return nil
	}
	return errors.Join(syscall.Setegid(int(s.Gid)), syscall.Seteuid(int(s.Uid)))
}

// keep puts an identity in place of the board's.
func (c *command) keep(cfg *config.Config, files identity.Files, i *identity.Identity) error {
	if err := asOwner(cfg.Broker.LogDirs); err != nil {
		return err
	}
	if err := identity.Save(files, i); err != nil {
		return err
	}
	if !cfg.OwnCertificate() {
		c.note("warning: TLS listeners show %s, which tls.cert.file in [security] names, and not this one", cfg.Security.CertFile)
	} else {
		c.note("a broker that runs shows it after SIGHUP")
	}
	return c.certificate(i, cfg.Broker.LogDirs)
}

// certificate prints what there is to know of one.
func (c *command) certificate(i *identity.Identity, from string) error {
	leaf := i.Leaf()
	names := append([]string{}, leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	by := "itself"
	if !i.Own() {
		by = leaf.Issuer.String()
	}
	const date = "2006-01-02 15:04:05"
	return c.show(map[string]any{
		"from": from, "subject": leaf.Subject.String(), "issuer": leaf.Issuer.String(), "own": i.Own(), "names": names, "notBefore": leaf.NotBefore.UTC(), "notAfter": leaf.NotAfter.UTC(),
		"sha256": i.Fingerprint(), "pin": i.Pin(),
	}, "from         %s\nsubject      %s\nsigned by    %s\nnames        %s\ngood from    %s\ngood until   %s\nfingerprint  %s\npin          %s\n",
		from, leaf.Subject, by, strings.Join(names, " "), leaf.NotBefore.UTC().Format(date), leaf.NotAfter.UTC().Format(date), i.Fingerprint(), i.Pin())
}
