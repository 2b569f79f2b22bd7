//! The broker's own identity across clouds: both federation chains, and each way in which they can be misconfigured.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use keyferry_broker::clock::{Clock as _, SharedClock, SystemClock};
use keyferry_broker::providers::credential::{Broken, Credential, GOOGLE_CLOUD_SCOPE, Token};
use keyferry_tests::broker::{load, prepare};
use keyferry_tests::clock::ManualClock;
use keyferry_tests::doubles::faults::Fault;
use keyferry_tests::doubles::identity::{
    EntraIdentity, EntraService, FederatedCredential, Flaw, GoogleIdentity, GoogleService, ManagedIdentity, OidcIssuer,
    PROJECT, PoolProvider, TENANT,
};
use keyferry_tests::pki::Ca;
use serde_json::json;
use tempfile::TempDir;

const VAULT: &str = "https://vault.azure.net";
const VAULT_SCOPE: &str = "https://vault.azure.net/.default";
const RESOURCE: &str = "api://keyferry-google";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const POD: &str = "system:serviceaccount:Shop:keyferry";
const NOBODY: &str = "99999999-9999-9999-9999-999999999999";

/// Within which whatever must happen has happened.
const BOUND: Duration = Duration::from_secs(30);

/// Both clouds and a cluster, whose trust is as it should be, and what the broker's configuration says of them.
struct World {
    google: GoogleIdentity,
    entra: EntraIdentity,
    cluster: OidcIssuer,
    clock: Arc<ManualClock>,
    machine: ManagedIdentity,
    machine_id: String,
    provider: PoolProvider,
    written: Written,
    directory: TempDir,
}

struct Written {
    provider: String,
    resource: String,
    reader: String,
    client_id: Option<String>,
    identity_url: String,
    sts_url: String,
    metadata_url: String,
    tenant: String,
    application: String,
    audience: String,
    signer: Option<String>,
    token_file: PathBuf,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let shared: SharedClock = Arc::clone(&clock) as SharedClock;
        let google = GoogleIdentity::start(Arc::clone(&shared)).await;
        let entra = EntraIdentity::start(Arc::clone(&shared)).await;
        let cluster = OidcIssuer::start(shared).await;
        let directory = tempfile::tempdir().unwrap();

        let machine = entra.assign();
        entra.add_resource(RESOURCE);
        let mut provider = PoolProvider::new("azure", "entra", &entra.issuer());
        provider.allowed_audiences = vec![RESOURCE.to_owned()];
        google.add_provider(provider.clone());
        let reader = account("reader");
        google.add_service_account(&reader);
        google.grant_token_creator(&reader, &provider.principal(&machine.object_id));

        let machine_id = google.add_service_account(&account("machine"));
        google.attach(Some(&account("machine")));
        let application = entra.add_application();
        let written = Written {
            provider: provider.audience().trim_start_matches("//iam.googleapis.com/").to_owned(),
            resource: RESOURCE.to_owned(),
            reader,
            client_id: None,
            identity_url: entra.url().to_owned(),
            sts_url: format!("{}/v1/token", google.url()),
            metadata_url: google.url().to_owned(),
            tenant: TENANT.to_owned(),
            application,
            audience: AUDIENCE.to_owned(),
            signer: None,
            token_file: directory.path().join("pod.jwt"),
        };
        let world = Self { google, entra, cluster, clock, machine, machine_id, provider, written, directory };
        world.trust(world.google.url(), &world.machine_id, AUDIENCE);
        world
    }

    /// What Entra trusts instead.
    fn trust(&self, issuer: &str, subject: &str, audience: &str) {
        let [issuer, subject, audience] = [issuer, subject, audience].map(str::to_owned);
        self.entra.trust(&self.written.application, &[FederatedCredential { issuer, subject, audience }]);
    }

    /// In a pod, whose token the same application trusts.
    fn in_a_pod(&self) {
        std::fs::write(&self.written.token_file, self.cluster.token(POD, AUDIENCE, json!({}))).unwrap();
        self.trust(self.cluster.url(), POD, AUDIENCE);
    }

    fn sts(&self) -> &keyferry_tests::doubles::identity::Service {
        self.google.service(GoogleService::Sts)
    }

    fn requests_to_google(&self) -> [usize; 2] {
        [GoogleService::Sts, GoogleService::IamCredentials].map(|service| self.google.service(service).requests())
    }

    /// As an operator would write it.
    fn credential(&self, name: &str) -> Arc<Credential> {
        let Written { provider, resource, reader, identity_url, sts_url, metadata_url, tenant, .. } = &self.written;
        let Written { application, audience, token_file, .. } = &self.written;
        let line = |key: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{key} = \"{value}\"\n")).unwrap_or_default()
        };
        let (client_id, signer) =
            (line("client_id", &self.written.client_id), line("service_account", &self.written.signer));
        let (google, authority, token_file) = (self.google.url(), self.entra.url(), token_file.display());
        let more = format!(
            r#"
[credentials.on-azure]
kind = "azure-managed-identity"
identity_url = "{identity_url}"
{client_id}
[credentials.google]
kind = "google-federation"
from = "on-azure"
provider = "{provider}"
resource = "{resource}"
service_account = "{reader}"
sts_url = "{sts_url}"
iam_url = "{google}"

[credentials.on-google]
kind = "google-metadata"
metadata_url = "{metadata_url}"

[credentials.azure]
kind = "azure-federation"
from = "on-google"
tenant = "{tenant}"
client_id = "{application}"
audience = "{audience}"
authority_url = "{authority}"
iam_url = "{google}"
{signer}
[credentials.pod]
kind = "azure-workload-identity"
tenant = "{tenant}"
client_id = "{application}"
token_file = "{token_file}"
authority_url = "{authority}"
"#
        );
        let directory = self.directory.path();
        let _ = std::fs::remove_file(directory.join("secrets.key"));
        prepare(directory, &Ca::new("test CA"), &more);
        let settings = load(directory).credentials.remove(name).unwrap();
        let clock = Arc::clone(&self.clock) as SharedClock;
        Credential::start(name, settings, clock).unwrap_or_else(|broken| panic!("{broken:?}"))
    }
}

fn account(name: &str) -> String {
    format!("{name}@{PROJECT}.iam.gserviceaccount.com")
}

fn scope_of(credential: &str) -> &'static str {
    if credential == "google" { GOOGLE_CLOUD_SCOPE } else { VAULT_SCOPE }
}

async fn obtained(credential: &Credential, scope: &str) -> Token {
    credential.token(scope).await.unwrap_or_else(|failure| panic!("{failure:?}"))
}

/// What the credential says is wrong with it.
fn broken(credential: &Credential) -> Broken {
    credential.status().broken.unwrap_or_else(|| panic!("nothing is broken"))
}

#[tokio::test]
async fn on_azure_the_broker_becomes_a_google_service_account() {
    let world = World::new().await;
    let credential = world.credential("google");
    let token = obtained(&credential, GOOGLE_CLOUD_SCOPE).await;
    assert_eq!(world.google.principal(token.value()), Some(format!("serviceAccount:{}", account("reader"))));
    let status = credential.status();
    assert_eq!(status.chain, ["managed-identity", "sts", "impersonation"]);
    assert_eq!(status.subject.as_deref(), Some(account("reader").as_str()));
    credential.stop().await;
}

#[tokio::test]
async fn on_google_the_broker_becomes_an_entra_application() {
    let world = World::new().await;
    let credential = world.credential("azure");
    let token = obtained(&credential, VAULT_SCOPE).await;
    assert!(world.entra.principal(token.value(), VAULT).is_some());
    let status = credential.status();
    assert_eq!(status.chain, ["id-token", "entra"]);
    assert_eq!(status.subject.as_deref(), Some(world.written.application.as_str()));
    credential.stop().await;
}

#[tokio::test]
async fn on_google_another_account_may_sign_for_the_broker() {
    let mut world = World::new().await;
    let signer = account("signer");
    let signer_id = world.google.add_service_account(&signer);
    world.google.grant_token_creator(&signer, &format!("serviceAccount:{}", account("machine")));
    world.trust(world.google.url(), &signer_id, AUDIENCE);
    world.written.signer = Some(signer);
    let credential = world.credential("azure");
    let token = obtained(&credential, VAULT_SCOPE).await;
    assert!(world.entra.principal(token.value(), VAULT).is_some());
    credential.stop().await;
}

#[tokio::test]
async fn in_a_pod_the_broker_becomes_an_entra_application() {
    let world = World::new().await;
    world.in_a_pod();
    let credential = world.credential("pod");
    let token = obtained(&credential, VAULT_SCOPE).await;
    assert!(world.entra.principal(token.value(), VAULT).is_some());
    credential.stop().await;
}

/// What is wrong, and what the error must say besides the link's name.
struct Misconfigured {
    what: &'static str,
    credential: &'static str,
    wrong: fn(&mut World),
    link: &'static str,
    says: fn(&World) -> Vec<String>,
}

impl Misconfigured {
    /// What the error should have said and did not.
    async fn missed(&self) -> Option<String> {
        let Self { what, credential: name, wrong, link, says } = self;
        let mut world = World::new().await;
        wrong(&mut world);
        let credential = world.credential(name);
        // On a busy machine a first call may end before the chain has broken, and knows of no link.
        let asked = SystemClock.monotonic();
        let (failure, broken) = loop {
            assert!(SystemClock.monotonic() - asked < BOUND, "{what}: no link is said to be broken");
            let Err(failure) = credential.token(scope_of(name)).await else { panic!("{what}: a token came") };
            if let Some(broken) = credential.status().broken {
                break (failure, broken);
            }
        };
        credential.stop().await;
        let public = format!("{failure:?}");
        let unsaid: Vec<_> = says(&world).into_iter().filter(|phrase| !broken.message.contains(phrase)).collect();
        let said = broken.link == *link && public.contains(link) && unsaid.is_empty();
        (!said).then(|| format!("{what}: expected {link} and {unsaid:?} in {broken:?}, {public}"))
    }
}

/// Phrases, some of which hold values of this run.
macro_rules! says {
    ($world:pat => $($phrase:expr),+) => { |$world| vec![$($phrase.to_owned()),+] };
}

const MISCONFIGURED: &[Misconfigured] = &[
    Misconfigured {
        what: "the pool's provider allows another audience",
        credential: "google",
        wrong: |w| w.google.change_provider("entra", |it| it.allowed_audiences = vec!["api://another".to_owned()]),
        link: "sts",
        says: says!(w => RESOURCE, "--allowed-audiences", w.written.provider),
    },
    Misconfigured {
        what: "the pool's provider has another issuer",
        credential: "google",
        wrong: |w| w.google.change_provider("entra", |it| it.issuer = "https://sts.windows.net/other/".to_owned()),
        link: "sts",
        says: says!(w => w.entra.issuer(), "issuer"),
    },
    Misconfigured {
        what: "the attribute condition admits somebody else",
        credential: "google",
        wrong: |w| {
            w.google.change_provider("entra", |it| it.condition = Some(("oid".to_owned(), NOBODY.to_owned())));
        },
        link: "sts",
        says: says!(w => "attribute condition", w.machine.object_id),
    },
    Misconfigured {
        what: "the configured provider does not exist",
        credential: "google",
        wrong: |w| w.written.provider = w.written.provider.replace("providers/entra", "providers/other"),
        link: "sts",
        says: says!(_ => "providers/other", "correct provider"),
    },
    Misconfigured {
        what: "the configured pool does not exist",
        credential: "google",
        wrong: |w| w.written.provider = w.written.provider.replace("Pools/azure", "Pools/other"),
        link: "sts",
        says: says!(_ => "Pools/other", "correct provider"),
    },
    Misconfigured {
        what: "the provider is disabled",
        credential: "google",
        wrong: |w| w.google.change_provider("entra", |it| it.disabled = true),
        link: "sts",
        says: says!(w => w.written.provider, "disabled"),
    },
    Misconfigured {
        what: "Google cannot reach the issuer's keys",
        credential: "google",
        wrong: |w| w.entra.service(EntraService::Discovery).faults().set(Fault::Status(503)),
        link: "sts",
        says: says!(w => w.entra.issuer(), "keys"),
    },
    Misconfigured {
        what: "the subject token has expired",
        credential: "google",
        wrong: |w| w.entra.service(EntraService::Imds).flaw(Flaw::Expired),
        link: "sts",
        says: says!(_ => "expired", "clock"),
    },
    Misconfigured {
        what: "the federated principal has no role on the service account",
        credential: "google",
        wrong: |w| w.google.revoke_token_creator(&account("reader"), &w.provider.principal(&w.machine.object_id)),
        link: "impersonation",
        says: says!(w => account("reader"), w.provider.principal(&w.machine.object_id), "roles/iam.workloadIdentityUser"),
    },
    Misconfigured {
        what: "the role was granted to the principal in the wrong case",
        credential: "google",
        wrong: |w| {
            let right = w.provider.principal(&w.machine.object_id);
            let wrong = w.provider.principal(&w.machine.object_id.to_uppercase());
            w.google.revoke_token_creator(&account("reader"), &right);
            w.google.grant_token_creator(&account("reader"), &wrong);
        },
        link: "impersonation",
        says: says!(w => w.provider.principal(&w.machine.object_id), "case"),
    },
    Misconfigured {
        what: "the service account does not exist",
        credential: "google",
        wrong: |w| w.written.reader = account("missing"),
        link: "impersonation",
        says: says!(_ => account("missing"), "no such account"),
    },
    Misconfigured {
        what: "the machine has no identity",
        credential: "google",
        wrong: |w| w.entra.unassign_all(),
        link: "managed-identity",
        says: says!(_ => "no system-assigned identity"),
    },
    Misconfigured {
        what: "the configured identity is not attached",
        credential: "google",
        wrong: |w| w.written.client_id = Some(NOBODY.to_owned()),
        link: "managed-identity",
        says: says!(_ => NOBODY, "attach"),
    },
    Misconfigured {
        what: "the resource is not registered",
        credential: "google",
        wrong: |w| w.written.resource = "api://missing".to_owned(),
        link: "managed-identity",
        says: says!(_ => "api://missing", "register"),
    },
    Misconfigured {
        what: "nothing answers for the managed identity",
        credential: "google",
        wrong: |w| w.written.identity_url = unused_url(),
        link: "managed-identity",
        says: says!(w => w.written.identity_url, "cannot be connected to"),
    },
    Misconfigured {
        what: "something else answers at sts_url",
        credential: "google",
        wrong: |w| w.sts().faults().set(Fault::Garbage),
        link: "sts",
        says: says!(_ => "not an access token"),
    },
    Misconfigured {
        what: "the broker asks for an ID token with another audience",
        credential: "azure",
        wrong: |w| w.written.audience = "api://another".to_owned(),
        link: "entra",
        says: says!(w => "api://another", "audience", w.written.application),
    },
    Misconfigured {
        what: "the metadata server signs for another audience",
        credential: "azure",
        wrong: |w| w.google.service(GoogleService::Metadata).flaw(Flaw::OtherAudience),
        link: "entra",
        says: says!(_ => "https://another.test", "audience"),
    },
    Misconfigured {
        what: "the federated credential has another issuer",
        credential: "azure",
        wrong: |w| w.trust("https://accounts.google.com", &w.machine_id, AUDIENCE),
        link: "entra",
        says: says!(w => w.google.url(), "issuer"),
    },
    Misconfigured {
        what: "the federated credential has the e-mail for a subject",
        credential: "azure",
        wrong: |w| w.trust(w.google.url(), &account("machine"), AUDIENCE),
        link: "entra",
        says: says!(w => w.machine_id, "subject", "unique id"),
    },
    Misconfigured {
        what: "the federated credential was deleted",
        credential: "azure",
        wrong: |w| w.entra.trust(&w.written.application, &[]),
        link: "entra",
        says: says!(w => w.written.application, "federated credential", w.machine_id),
    },
    Misconfigured {
        what: "the tenant does not exist",
        credential: "azure",
        wrong: |w| w.written.tenant = NOBODY.to_owned(),
        link: "entra",
        says: says!(_ => NOBODY, "no tenant"),
    },
    Misconfigured {
        what: "the application does not exist",
        credential: "azure",
        wrong: |w| w.written.application = NOBODY.to_owned(),
        link: "entra",
        says: says!(_ => NOBODY, "no application"),
    },
    Misconfigured {
        what: "Entra cannot reach Google's keys",
        credential: "azure",
        wrong: |w| w.google.service(GoogleService::Discovery).faults().set(Fault::Status(503)),
        link: "entra",
        says: says!(w => w.google.url(), "keys"),
    },
    Misconfigured {
        what: "no service account is attached to the machine",
        credential: "azure",
        wrong: |w| w.google.attach(None),
        link: "id-token",
        says: says!(_ => "service account", "attach"),
    },
    Misconfigured {
        what: "there is no metadata server",
        credential: "azure",
        wrong: |w| w.written.metadata_url = unused_url(),
        link: "id-token",
        says: says!(w => w.written.metadata_url, "cannot be connected to"),
    },
    Misconfigured {
        what: "the machine may not sign for the other account",
        credential: "azure",
        wrong: |w| {
            w.google.add_service_account(&account("signer"));
            w.written.signer = Some(account("signer"));
        },
        link: "id-token",
        says: says!(_ => account("signer"), account("machine"), "roles/iam.serviceAccountTokenCreator"),
    },
    Misconfigured {
        what: "the federated credential has the subject in the wrong case",
        credential: "pod",
        wrong: |w| {
            w.in_a_pod();
            w.trust(w.cluster.url(), &POD.to_lowercase(), AUDIENCE);
        },
        link: "entra",
        says: says!(_ => POD, "subject", "case"),
    },
    Misconfigured {
        what: "the cluster withdrew the key that signed the pod's token",
        credential: "pod",
        wrong: |w| {
            w.in_a_pod();
            w.cluster.rotate_keys();
        },
        link: "entra",
        says: says!(w => w.cluster.url(), "signature"),
    },
    Misconfigured {
        what: "nobody renews the pod's token",
        credential: "pod",
        wrong: |w| {
            w.cluster.discovery().flaw(Flaw::Expired);
            w.in_a_pod();
        },
        link: "entra",
        says: says!(_ => "token file", "renewed"),
    },
    Misconfigured {
        what: "the token file is missing",
        credential: "pod",
        wrong: |_| {},
        link: "token-file",
        says: says!(w => w.written.token_file.display().to_string(), "azure.workload.identity/use"),
    },
    Misconfigured {
        what: "the token file is empty",
        credential: "pod",
        wrong: |w| std::fs::write(&w.written.token_file, "").unwrap(),
        link: "token-file",
        says: says!(w => w.written.token_file.display().to_string(), "no signed token"),
    },
];

/// Where nothing listens.
fn unused_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn each_misconfiguration_names_the_broken_link_and_what_the_other_side_expects() {
    let missed = join_all(MISCONFIGURED.iter().map(Misconfigured::missed)).await;
    let missed: Vec<_> = missed.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test]
async fn a_link_that_never_answers_is_named_within_the_time_that_a_caller_waits() {
    let mut worlds = Vec::new();
    let google = ["managed-identity", "sts", "impersonation"].map(|link| ("google", link));
    for (name, link) in google.into_iter().chain([("azure", "id-token"), ("azure", "entra")]) {
        worlds.push((World::new().await, name, link));
    }
    join_all(worlds.into_iter().map(|(world, name, link)| async move {
        let service = match link {
            "managed-identity" => world.entra.service(EntraService::Imds),
            "sts" => world.sts(),
            "impersonation" => world.google.service(GoogleService::IamCredentials),
            "id-token" => world.google.service(GoogleService::Metadata),
            _ => world.entra.service(EntraService::Token),
        };
        service.faults().set(Fault::BlackHole);
        let credential = world.credential(name);
        let asked = SystemClock.monotonic();
        assert!(credential.token(scope_of(name)).await.is_err(), "{link}: a token came");
        assert!(SystemClock.monotonic() - asked < Duration::from_secs(8), "{link} kept its caller waiting");
        while credential.status().broken.is_none() {
            assert!(SystemClock.monotonic() - asked < BOUND, "{link} is not said to be broken");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(broken(&credential).link, link);
        service.heal();
        until_it_works(&world, &credential, scope_of(name)).await;
        credential.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn one_refusal_does_not_end_a_credential() {
    let world = World::new().await;
    let credential = world.credential("google");
    world.sts().faults().set_for(Fault::Status(400), 1);
    assert!(credential.token(GOOGLE_CLOUD_SCOPE).await.is_err());
    assert_eq!(broken(&credential).link, "sts");
    until_it_works(&world, &credential, GOOGLE_CLOUD_SCOPE).await;
    assert_eq!(credential.status().broken, None);
    assert_eq!(world.sts().requests(), 2);
    credential.stop().await;
}

#[tokio::test]
async fn the_last_good_token_serves_for_as_long_as_it_lives() {
    let world = World::new().await;
    let credential = world.credential("google");
    let first = obtained(&credential, GOOGLE_CLOUD_SCOPE).await;
    world.sts().faults().set(Fault::Status(503));
    credential.refused(GOOGLE_CLOUD_SCOPE, &first);
    let asked = SystemClock.monotonic();
    while credential.status().broken.is_none() {
        assert!(SystemClock.monotonic() - asked < BOUND, "it was not renewed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(obtained(&credential, GOOGLE_CLOUD_SCOPE).await.value(), first.value());

    world.clock.advance(Duration::from_secs(3601));
    assert!(credential.token(GOOGLE_CLOUD_SCOPE).await.is_err(), "a dead token was served");
    assert_eq!(broken(&credential).link, "sts");
    world.sts().heal();
    let second = until_it_works(&world, &credential, GOOGLE_CLOUD_SCOPE).await;
    assert_ne!(second.value(), first.value());
    credential.stop().await;
}

#[tokio::test]
async fn a_thousand_callers_at_once_are_one_request_to_each_link() {
    let world = World::new().await;
    let credential = world.credential("google");
    let tokens = join_all((0..1000).map(|_| obtained(&credential, GOOGLE_CLOUD_SCOPE))).await;
    assert!(tokens.iter().all(|token| token.value() == tokens[0].value()));
    assert_eq!(world.requests_to_google(), [1, 1]);
    assert_eq!(world.entra.service(EntraService::Imds).requests(), 1);

    // All of them are refused at once: together they bring one renewal.
    tokens.iter().for_each(|token| credential.refused(GOOGLE_CLOUD_SCOPE, token));
    let renewed = join_all((0..1000).map(|_| obtained(&credential, GOOGLE_CLOUD_SCOPE))).await;
    assert!(renewed.iter().all(|token| token.value() != tokens[0].value()));
    assert_eq!(world.requests_to_google(), [2, 2]);
    credential.stop().await;
}

/// Time passes for the credential's pauses, until it has a token again.
async fn until_it_works(world: &World, credential: &Credential, scope: &str) -> Token {
    let started = SystemClock.monotonic();
    loop {
        match credential.token(scope).await {
            Ok(token) => return token,
            Err(failure) => assert!(SystemClock.monotonic() - started < BOUND, "it stays broken: {failure:?}"),
        }
        world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
