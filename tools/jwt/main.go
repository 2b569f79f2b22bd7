// Command jwt-judge logs in with tokens as a CockroachDB cluster lets its users log in: it applies the cluster's rules
// with the JWT library that the cluster uses, and reads issuers by discovery at every login.
//
// It reads a list of logins as JSON and writes, for each, "" or the rule that refused it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

type login struct {
	Token    string   `json:"token"`
	User     string   `json:"user"`
	Issuers  []string `json:"issuers"`
	Audience []string `json:"audience"`
	// In PEM, of the issuer's HTTPS.
	CA string `json:"ca"`
	// Pinned keys, instead of the issuer's own.
	JWKS string `json:"jwks"`
	// Seconds since 1970; zero for the clock's.
	Now int64 `json:"now"`
}

func main() {
	var logins []login
	if err := json.NewDecoder(os.Stdin).Decode(&logins); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	verdicts := make([]string, len(logins))
	for i, login := range logins {
		if err := login.judge(); err != nil {
			verdicts[i] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

var userName = regexp.MustCompile(`^[\p{Ll}0-9_][\p{Ll}0-9_.-]*$`)

func (l *login) judge() error {
	if !userName.MatchString(l.User) || len(l.User) > 63 {
		return errors.New("user: not a name")
	}
	if l.User == "root" || l.User == "node" || l.User == "none" || l.User == "public" ||
		strings.HasPrefix(l.User, "pg_") || strings.HasPrefix(l.User, "crdb_internal") {
		return errors.New("user: reserved")
	}
	unverified, err := jwt.ParseInsecure([]byte(l.Token))
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	issuer := unverified.Issuer()
	if !slices.Contains(l.Issuers, issuer) {
		return errors.New("issuer: not configured")
	}
	keys, err := l.keys(issuer)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	now := time.Now
	if l.Now != 0 {
		now = func() time.Time { return time.Unix(l.Now, 0) }
	}
	token, err := jwt.Parse([]byte(l.Token),
		jwt.WithKeySet(keys, jws.WithInferAlgorithmFromKey(true)),
		jwt.WithValidate(true),
		jwt.WithClock(jwt.ClockFunc(now)))
	if err != nil {
		return fmt.Errorf("verification: %w", err)
	}
	if token.Expiration().IsZero() {
		return errors.New("verification: exp is missing")
	}
	if !slices.ContainsFunc(token.Audience(), func(named string) bool { return slices.Contains(l.Audience, named) }) {
		return errors.New("audience: none in common")
	}
	if token.Subject() != l.User {
		return errors.New("subject: not the user")
	}
	return nil
}

func (l *login) keys(issuer string) (jwk.Set, error) {
	if l.JWKS != "" {
		return jwk.ParseString(l.JWKS)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(l.CA)) {
		return nil, errors.New("no CA")
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
	}
	defer client.CloseIdleConnections()
	discovery, err := get(client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(discovery, &document); err != nil {
		return nil, err
	}
	if document.Issuer != issuer {
		return nil, errors.New("the discovery document is another issuer's")
	}
	found, err := get(client, document.JWKSURI)
	if err != nil {
		return nil, err
	}
	return jwk.Parse(found)
}

func get(client *http.Client, url string) ([]byte, error) {
	answer, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status)
	}
	return io.ReadAll(answer.Body)
}
