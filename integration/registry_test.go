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
// certificate is in $WORK/VAR/ca.crt. With -auth it wants registryAccount.
func cmdRegistry(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "registry VAR [-tls] [-auth]")
	cmdNeed(ts, false, []string{"registry"})
	name, dir := args[0], ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, "blobs"), 0o755))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := free.Addr().String()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %s/blobs}}\nhttp:\n  addr: %s\n", dir, addr)
	if slices.Contains(args, "-tls") {
		ts.Check(writeCertificates(dir))
		config += fmt.Sprintf("  tls: {certificate: %s/server/crt, key: %[1]s/server/key}\n", dir)
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

// writeCertificates makes an authority and a server's certificate of it for 127.0.0.1.
func writeCertificates(dir string) error {
	day := 24 * time.Hour
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "croft's test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-day), NotAfter: time.Now().Add(day), KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, authorityKey)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "server"), 0o755); err != nil { // dir itself can be a client's directory of certificates
		return err
	}
	for _, file := range []struct {
		name, kind string
		data       []byte
	}{{"ca.crt", "CERTIFICATE", ca}, {"server/crt", "CERTIFICATE", cert}, {"server/key", "PRIVATE KEY", key}} {
		text := pem.EncodeToMemory(&pem.Block{Type: file.kind, Bytes: file.data})
		if err := os.WriteFile(filepath.Join(dir, file.name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
