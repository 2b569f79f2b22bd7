import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.CallCredentials;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import java.io.File;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.Executor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import keyferry.v1.*;

/**
 * Reads a secret, mints access to a database, and then always runs the current value of a secret.
 *
 * <p>Connects as KEYFERRY_SERVER, KEYFERRY_CA, KEYFERRY_CERT, KEYFERRY_KEY and KEYFERRY_TOKEN_FILE say.
 */
public final class Watch {
  private static final String WATCHED = "stores/local/secrets/db-password";
  private static final String SUBSCRIBER = "java";
  private static final Duration DEADLINE = Duration.ofSeconds(10);

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = connect();
    readAndMint(channel);
    new Follower(channel).follow();
  }

  static ManagedChannel connect() throws IOException {
    var credentials =
        TlsChannelCredentials.newBuilder()
            .trustManager(new File(System.getenv("KEYFERRY_CA")))
            .keyManager(new File(System.getenv("KEYFERRY_CERT")), new File(System.getenv("KEYFERRY_KEY")))
            .build();
    URI server = URI.create(System.getenv("KEYFERRY_SERVER"));
    return Grpc.newChannelBuilderForAddress(server.getHost(), server.getPort(), credentials)
        .keepAliveTime(30, TimeUnit.SECONDS)
        .build();
  }

  /** Read for each call, so that a renewed token is in use at once. */
  static final class BearerToken extends CallCredentials {
    @Override
    public void applyRequestMetadata(RequestInfo request, Executor executor, MetadataApplier applier) {
      executor.execute(
          () -> {
            try {
              String token = Files.readString(Path.of(System.getenv("KEYFERRY_TOKEN_FILE"))).strip();
              var headers = new Metadata();
              headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
              applier.apply(headers);
            } catch (IOException error) {
              applier.fail(Status.UNAVAILABLE.withCause(error));
            }
          });
    }
  }

  /** Why the broker said no, and after how long the same call may succeed. Neither where it did not answer. */
  record Refusal(String reason, Duration delay) {
    static Refusal of(StatusRuntimeException error) {
      String reason = null;
      Duration delay = null;
      try {
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
          if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("keyferry")) {
            reason = detail.unpack(ErrorInfo.class).getReason();
          } else if (detail.is(RetryInfo.class)) {
            var wait = detail.unpack(RetryInfo.class).getRetryDelay();
            delay = Duration.ofSeconds(wait.getSeconds(), wait.getNanos());
          }
        }
      } catch (InvalidProtocolBufferException damaged) {
        // Told by something on the way to the broker.
      }
      return new Refusal(reason, delay);
    }

    /** Of two streams with one name the older has lost (CONFLICT): it must not take the name back. */
    boolean isFinal() {
      return "CONFLICT".equals(reason) || (reason != null && !reason.equals("TOKEN_EXPIRED") && delay == null);
    }
  }

  static void readAndMint(ManagedChannel channel) {
    var credentials = new BearerToken();
    var secrets = SecretServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials);
    var tokens = TokenServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials);
    var hello = GetSecretRequest.newBuilder().setName("stores/local/secrets/hello").build();
    var secret = secrets.withDeadlineAfter(DEADLINE).getSecret(hello);
    say("read", secret.getName()); // secret.getPayload() is the value
    try {
      var hidden = GetSecretRequest.newBuilder().setName("stores/local/secrets/api-key").build();
      secrets.withDeadlineAfter(DEADLINE).getSecret(hidden);
    } catch (StatusRuntimeException error) {
      say("refused", Refusal.of(error).reason());
    }
    var role = MintDatabaseTokenRequest.newBuilder().setName("databases/orders/roles/app").build();
    var token = tokens.withDeadlineAfter(DEADLINE).mintDatabaseToken(role);
    say("minted", token.getUser()); // token.getAccessToken() is what proves it
  }

  /** Runs the current version of a secret, and says so to the broker. */
  static final class Follower {
    private final SecretServiceGrpc.SecretServiceBlockingStub secrets;
    private final RotationServiceGrpc.RotationServiceBlockingStub rotations;
    private String cursor = "";
    private String epoch = "";
    private long revision;

    Follower(ManagedChannel channel) {
      secrets = SecretServiceGrpc.newBlockingStub(channel).withCallCredentials(new BearerToken());
      rotations = RotationServiceGrpc.newBlockingStub(channel).withCallCredentials(new BearerToken());
    }

    /** Ends when waiting does not help. */
    void follow() throws InterruptedException {
      for (int failures = 0; ; failures++) {
        try {
          var filter = RotationFilter.newBuilder().addNames(WATCHED);
          var request = WatchRotationsRequest.newBuilder().setSubscriber(SUBSCRIBER).setFilter(filter);
          var stream = rotations.watchRotations(request.setCursor(cursor).build());
          while (stream.hasNext()) {
            var message = stream.next();
            take(message);
            // Only now: what fails before is told again.
            cursor = message.getCursor().isEmpty() ? cursor : message.getCursor();
            failures = 0;
          }
        } catch (StatusRuntimeException error) {
          var refusal = Refusal.of(error);
          if (refusal.isFinal()) {
            throw error;
          }
          System.err.println("watch lost: " + error.getStatus());
          long grown = Math.min(30_000, 200L << Math.min(failures, 10));
          long asked = refusal.delay() == null ? 0 : refusal.delay().toMillis();
          Thread.sleep(Math.max(asked, ThreadLocalRandom.current().nextLong(grown / 2, grown)));
        }
      }
    }

    private void take(WatchRotationsResponse message) {
      for (var entry : message.getSnapshot().getEntriesList()) {
        say("snapshot", run(entry.getSecret(), entry.getRevision()));
      }
      for (var event : message.getEvents().getEventsList()) {
        // An event may come twice.
        boolean seen = event.getEpoch().equals(epoch) && event.getRevision() <= revision;
        if (event.getKind() == RotationEventKind.ROTATION_EVENT_KIND_VERSION_CURRENT && !seen) {
          say("event", run(event.getSecret(), event.getRevision()));
        }
      }
      for (var event : message.getEvents().getEventsList()) {
        epoch = event.getEpoch();
        revision = event.getRevision();
      }
    }

    private String run(String secret, long minRevision) {
      var read = GetSecretRequest.newBuilder().setName(secret).setMinRevision(minRevision).build();
      var answer = secrets.withDeadlineAfter(DEADLINE).getSecret(read);
      // Here the program takes answer.getPayload() into use.
      var word = AcknowledgeRotationRequest.newBuilder().setSubscriber(SUBSCRIBER).addVersions(answer.getName());
      rotations.withDeadlineAfter(DEADLINE).acknowledgeRotation(word.build());
      return answer.getName();
    }
  }

  static void say(String what, String which) {
    System.out.println(what + " " + which);
  }
}
