package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// What a registry with -auth takes: an account, and its line in a file of htpasswd's.
const (
	registryAccount = "alice:secret"
	registryEntry   = "alice:$2y$04$5CpoukDNZdyoyTyTZq6rQORBb1u.5.UnOUcCt4Ccq2XvdxTqo1jty\n"
)

// cmdRegistry starts Debian's docker-registry on loopback, empty, with its files in $WORK/VAR. With -tls its authority's
// certificate is in $WORK/VAR/ca.crt. With -clients it has TLS and wants a certificate of its clients, too: $WORK/VAR/client.cert
// and client.key are one. With -auth it wants registryAccount.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "registry VAR [-tls|-clients] [-auth]")
	cmdNeed(ts, false, []string{"registry"})
	name, dir := args[0], ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, "blobs"), 0o755))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := free.Addr().String()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s/blobs}}\nhttp:\n  addr: %s\n", dir, addr)
	clients := slices.Contains(args, "-clients")
	if clients || slices.Contains(args, "-tls") {
		ts.Check(writeCertificates(dir, clients))
		tls := fmt.Sprintf("certificate: %s/server/crt, key: %[1]s/server/key", dir)
		if clients {
			tls += fmt.Sprintf(", clientcas: [%s/ca.crt]", dir)
		}
		config += "  tls: {" + tls + "}\n"
	}
	if slices.Contains(args, "-auth") {
		ts.Check(os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(registryEntry), 0o600))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	ts.Check(err)
	cmd := command(ts, "docker-registry", "serve", filepath.Join(dir, "config.yml"))
	// It takes variables for settings, and that which names its clients' passwords for one.
	cmd.Env = slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "REGISTRY_") })
	cmd.Stdout, cmd.Stderr = log, log
	ts.Check(free.Close())
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			ts.Fatalf("docker-registry: %v\n%s", err, text)
		}
	}
	ts.Setenv(name, addr)
}

// writeCertificates makes an authority and a certificate of it for 127.0.0.1, and with client one for who talks to that.
func writeCertificates(dir string, client bool) error {
	day := 24 * time.Hour
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(day),
		}
	}
	authority := template(1, "croft's test authority")
	authority.IsCA, authority.BasicConstraintsValid, authority.KeyUsage = true, true, x509.KeyUsageCertSign
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if err := writeCertificate(authority, authority, authorityKey, nil, filepath.Join(dir, "ca.crt"), ""); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "server"), 0o755); err != nil { // dir itself can be a client's directory of certificates
		return err
	}
	server := template(2, "localhost")
	server.IPAddresses, server.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	if err := writeCertificate(server, authority, nil, authorityKey, filepath.Join(dir, "server", "crt"), filepath.Join(dir, "server", "key")); err != nil {
		return err
	}
	if !client {
		return nil
	}
	one := template(3, "client")
	one.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return writeCertificate(one, authority, nil, authorityKey, filepath.Join(dir, "client.cert"), filepath.Join(dir, "client.key"))
}

// writeCertificate writes a certificate that authority signs, and its key: own, or a new one. No signer is an authority that
// signs itself.
func writeCertificate(template, authority *x509.Certificate, own, signer *ecdsa.PrivateKey, certificateFile, keyFile string) (err error) {
	if own == nil {
		if own, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	if signer == nil {
		signer = own
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, authority, &own.PublicKey, signer)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600); err != nil || keyFile == "" {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600)
}
