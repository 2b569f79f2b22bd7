// Reads a secret, mints access to a database, and then always runs the current value of a secret.
//
// Connects as KEYFERRY_SERVER, KEYFERRY_CA, KEYFERRY_CERT, KEYFERRY_KEY and KEYFERRY_TOKEN_FILE say.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	keyferry "keyferry.example/client/gen/keyferry/v1"
)

const (
	watched    = "stores/local/secrets/db-password"
	subscriber = "go"
	deadline   = 10 * time.Second
)

func main() {
	connection, err := connect()
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if err := readAndMint(context.Background(), connection); err != nil {
		log.Fatal(err)
	}
	follower := follower{
		secrets:   keyferry.NewSecretServiceClient(connection),
		rotations: keyferry.NewRotationServiceClient(connection),
	}
	log.Fatal(follower.follow(context.Background()))
}

func connect() (*grpc.ClientConn, error) {
	certificate, err := tls.LoadX509KeyPair(os.Getenv("KEYFERRY_CERT"), os.Getenv("KEYFERRY_KEY"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(os.Getenv("KEYFERRY_CA"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("KEYFERRY_CA holds no certificate")
	}
	config := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}}
	return grpc.NewClient(strings.TrimPrefix(os.Getenv("KEYFERRY_SERVER"), "https://"),
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithPerRPCCredentials(bearerToken(os.Getenv("KEYFERRY_TOKEN_FILE"))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}))
}

// bearerToken is a file that is read for each call, so that a renewed token is in use at once.
type bearerToken string

func (file bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(string(file))
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, err
}

func (bearerToken) RequireTransportSecurity() bool { return true }

// refusal is why the broker said no, and after how long the same call may succeed. Neither where it did not answer.
func refusal(err error) (reason string, delay time.Duration) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == "keyferry" {
				reason = detail.Reason
			}
		case *errdetails.RetryInfo:
			delay = detail.RetryDelay.AsDuration()
		}
	}
	return reason, delay
}

func readAndMint(ctx context.Context, connection *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	secrets, tokens := keyferry.NewSecretServiceClient(connection), keyferry.NewTokenServiceClient(connection)
	secret, err := secrets.GetSecret(ctx, &keyferry.GetSecretRequest{Name: "stores/local/secrets/hello"})
	if err != nil {
		return err
	}
	fmt.Println("read", secret.Name) // secret.Payload is the value
	_, err = secrets.GetSecret(ctx, &keyferry.GetSecretRequest{Name: "stores/local/secrets/api-key"})
	if reason, _ := refusal(err); reason != "" {
		fmt.Println("refused", reason)
	}
	role := &keyferry.MintDatabaseTokenRequest{Name: "databases/orders/roles/app"}
	token, err := tokens.MintDatabaseToken(ctx, role)
	if err != nil {
		return err
	}
	fmt.Println("minted", token.User) // token.GetAccessToken() is what proves it
	return nil
}

// follower runs the current version of a secret, and says so to the broker.
type follower struct {
	secrets   keyferry.SecretServiceClient
	rotations keyferry.RotationServiceClient
	cursor    string
	epoch     string
	revision  int64
	failures  int
}

// follow returns when waiting does not help.
func (f *follower) follow(ctx context.Context) error {
	for {
		err := f.watch(ctx)
		reason, delay := refusal(err)
		// Of two streams with one name the older has lost: it must not take the name back.
		if reason == "CONFLICT" || reason != "" && reason != "TOKEN_EXPIRED" && delay == 0 {
			return err
		}
		log.Print("watch lost: ", err)
		f.failures++
		grown := min(30*time.Second, 100*time.Millisecond<<min(f.failures, 10))
		time.Sleep(max(delay, grown/2+rand.N(grown/2)))
	}
}

func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	filter := &keyferry.RotationFilter{Names: []string{watched}}
	stream, err := f.rotations.WatchRotations(ctx,
		&keyferry.WatchRotationsRequest{Subscriber: subscriber, Filter: filter, Cursor: f.cursor})
	if err != nil {
		return err
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := f.take(ctx, message); err != nil {
			return err
		}
		// Only now: what fails before is told again.
		if message.Cursor != "" {
			f.cursor = message.Cursor
		}
		f.failures = 0
	}
}

func (f *follower) take(ctx context.Context, message *keyferry.WatchRotationsResponse) error {
	for _, entry := range message.GetSnapshot().GetEntries() {
		if err := f.run(ctx, "snapshot", entry.Secret, entry.Revision); err != nil {
			return err
		}
	}
	events := message.GetEvents().GetEvents()
	for _, event := range events {
		// An event may come twice.
		if event.Kind != keyferry.RotationEventKind_ROTATION_EVENT_KIND_VERSION_CURRENT ||
			event.Epoch == f.epoch && event.Revision <= f.revision {
			continue
		}
		if err := f.run(ctx, "event", event.Secret, event.Revision); err != nil {
			return err
		}
	}
	if len(events) > 0 {
		last := events[len(events)-1]
		f.epoch, f.revision = last.Epoch, last.Revision
	}
	return nil
}

func (f *follower) run(ctx context.Context, why, secret string, revision int64) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	answer, err := f.secrets.GetSecret(ctx, &keyferry.GetSecretRequest{Name: secret, MinRevision: revision})
	if err != nil {
		return err
	}
	// Here the program takes answer.Payload into use.
	_, err = f.rotations.AcknowledgeRotation(ctx,
		&keyferry.AcknowledgeRotationRequest{Subscriber: subscriber, Versions: []string{answer.Name}})
	if err != nil {
		return err
	}
	fmt.Println(why, answer.Name)
	return nil
}
