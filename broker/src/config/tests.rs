#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reference::SMALLEST;
use super::*;
use crate::admission::Bucket;
use crate::audit::Mode;
use crate::gateway::sds::Kind;
use crate::identity::CertificateName;
use crate::identity::token::{Algorithm, KeySource};
use crate::providers::credential::{AzureIdentity, GoogleIdentity, IdTokenSigner};
use crate::rotation::sources::SourceSettings;
use crate::transport::{ClientCertificate, TlsVersion};

fn parse(text: &str) -> Result<Config, Problems> {
    parse_with(text, &[])
}

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    Config::parse(text, Path::new("keyferry.toml"), variables, "node-1")
}

/// The smallest file and `more`, as the report about it.
fn report(more: &str) -> String {
    parse(&format!("{SMALLEST}{more}")).unwrap_err().to_string()
}

fn report_of_variables(variables: &[(&str, &str)]) -> String {
    parse_with(SMALLEST, variables).unwrap_err().to_string()
}

#[test]
fn reads_the_smallest_file_with_every_default() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.node.name, "node-1");
    assert_eq!(config.listen.grpc, "[::]:7443".parse().unwrap());
    assert_eq!(config.listen.admin, Some("127.0.0.1:7445".parse().unwrap()));
    assert_eq!(config.tls.minimum_version, TlsVersion::V1_3);
    assert_eq!(config.limits.message_bytes, 256 << 10);
    assert_eq!(config.limits.maximum_deadline, Duration::from_secs(60));
    assert_eq!(config.audit.mode, Mode::Written);
    assert_eq!(config.audit.sync_interval, Duration::from_millis(100));
    assert_eq!(config.audit.roll_at, 256 << 20);
    assert_eq!(config.identity.certificate_names, [CertificateName::Spiffe, CertificateName::Dns]);
    assert_eq!(config.telemetry.otlp_endpoint, None);
    assert_eq!(config.issuers.len(), 0);
}

#[test]
fn reads_every_section() {
    let config = parse(include_str!("testdata/full.toml")).unwrap();
    assert_eq!(config.node.name, "broker-eu-1");
    assert_eq!((config.listen.grpc.port(), config.listen.web), (0, None));
    assert_eq!(config.tls.client_certificate, ClientCertificate::Optional);
    assert_eq!(config.tls.client_ca, Vec::<PathBuf>::new());
    let corp = &config.issuers["corp"];
    assert_eq!(corp.url, "https://login.example.com/tenant/v2.0/");
    assert_eq!(corp.algorithms, [Algorithm::Es256, Algorithm::EdDsa]);
    assert_eq!(corp.keys, KeySource::Pinned("corp.jwks.json".into()));
    assert_eq!(corp.name, "corp");
    assert_eq!(config.quota.read, Bucket { rate: 5, burst: 6 });
    assert_eq!(config.tls.trust_domains["prod.example.com"], Path::new("prod-ca.pem"));
    let store = |id| &config.stores[&StoreName::from_id(id).unwrap()];
    let freshness = config.cache.stores[&StoreName::from_id("local").unwrap()];
    assert_eq!(
        (config.cache.size, freshness.latest, freshness.stale),
        (1 << 30, Duration::from_secs(10), Duration::ZERO)
    );
    assert_eq!(freshness.pinned, Duration::from_mins(30));
    let StoreSettings::Local(local) = store("local") else { panic!("{:?}", config.stores) };
    assert_eq!(local.file, Path::new("/var/lib/keyferry/store.redb"));
    let StoreSettings::Gcp(gcp) = store("gcp-prod") else { panic!("{:?}", config.stores) };
    assert_eq!(gcp.location.as_deref(), Some("europe-west3"));
    let web = &config.envoy["web"];
    assert_eq!((web.kind, web.key.as_ref().unwrap().as_str()), (Kind::TlsCertificate, "stores/azure/secrets/web-key"));
    assert_eq!(config.envoy["clients"].kind, Kind::ValidationContext);
    let StoreSettings::Azure(azure) = store("azure") else { panic!("{:?}", config.stores) };
    assert_eq!(azure.vault_url, "https://kv-prod.vault.usgovcloudapi.net");
}

#[test]
fn reports_all_errors_together_in_the_order_of_the_file() {
    let variables = [("KEYFERRY_QUOTA_READ_RATE", "fast"), ("KEYFERRY_AUDIT_MOOD", "synced")];
    let found = parse_with(include_str!("testdata/wrong.toml"), &variables).unwrap_err();
    assert_same(&format!("{found}\n"), "src/config/testdata/wrong.txt");
}

#[test]
fn reports_all_syntax_errors_and_what_else_it_could_read() {
    let found = parse(include_str!("testdata/broken.toml")).unwrap_err();
    assert_same(&format!("{found}\n"), "src/config/testdata/broken.txt");
}

#[test]
fn has_its_reference_page_up_to_date() {
    assert_same(&reference(), "../docs/configuration.md");
}

/// `KEYFERRY_REGENERATE=1` writes the file instead, for a reviewer to read the difference.
fn assert_same(found: &str, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("KEYFERRY_REGENERATE").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{file} is out of date; run the tests once with KEYFERRY_REGENERATE=1 and review the difference.\n{found}"
    );
}

#[test]
fn documents_the_default_that_it_uses() {
    let text = reference();
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## `[") {
            section = title.trim_end_matches("]`");
        } else if let [_, key, _, default, _, meaning, ..] = line.split('|').map(str::trim).collect::<Vec<_>>()[..]
            && let Some(literal) = default.strip_prefix('`')
            // Where a kind has a default, only that kind's keys may be written with it.
            && !meaning.starts_with("Kind `etcd`")
        {
            let key = key.trim_matches('`');
            let line = format!("{key} = {}\n", literal.trim_end_matches('`'));
            sections.entry(section).or_default().push_str(&line);
        }
    }
    let mut explicit = SMALLEST.to_owned();
    for (section, lines) in &sections {
        explicit = match *section {
            "tls" => explicit.replace("[tls]\n", &format!("[tls]\n{}", lines.replace("client_ca = []\n", ""))),
            "policy" => explicit.replace("[policy]\n", &format!("[policy]\n{lines}")),
            section if section.ends_with(".NAME") => explicit,
            _ => format!("{explicit}\n[{section}]\n{lines}"),
        };
    }
    let (written, implied) = (parse(&explicit).unwrap_or_else(|e| panic!("{e}")), parse(SMALLEST).unwrap());
    assert!(explicit.lines().count() > 40, "{explicit}");
    let (written, implied) = (without_files(written), without_files(implied));
    assert_eq!(written, implied);
}

fn without_files(config: Config) -> Config {
    Config { files: Vec::new(), ..config }
}

#[test]
fn documents_every_key_that_it_knows() {
    let text = reference();
    for variable in ["KEYFERRY_LISTEN_GRPC", "KEYFERRY_AUDIT_MODE", "KEYFERRY_STORES_NAME_VAULT_URL"] {
        assert!(text.contains(variable), "{variable}");
    }
}

#[test]
fn suggests_the_key_that_was_meant() {
    let key = "[limits]\nconections = 5\n[listen]\nhandshakes = 5\nzebra = 1\n[audits]\nmode = \"synced\"";
    let lines = report(key);
    assert!(lines.contains("[limits] conections: there is no such key; did you mean connections?"), "{lines}");
    assert!(lines.contains("[listen] handshakes: there is no such key; it belongs to [limits]"), "{lines}");
    assert!(
        lines.contains("[listen] zebra: there is no such key; its keys are grpc, web_origins, web, admin, admin_tls")
    );
    assert!(lines.contains("audits: there is no such section; did you mean [audit]?"), "{lines}");
}

#[test]
fn counts_columns_in_characters() {
    let file = format!("limits = {{ \"ü\" = 1, connections = \"x\" }}\n{SMALLEST}");
    let lines = parse(&file).unwrap_err().to_string();
    assert!(lines.starts_with("keyferry.toml:1:12: [limits] ü: there is no such key"), "{lines}");
    assert!(lines.contains("keyferry.toml:1:35: [limits] connections: \"x\" is a string"), "{lines}");
}

#[test]
fn lets_a_variable_override_its_key() {
    let file = format!("{SMALLEST}[listen]\ngrpc = \"127.0.0.1:1\"");
    let config = parse_with(
        &file,
        &[
            ("KEYFERRY_LISTEN_GRPC", "127.0.0.1:9000"),
            ("KEYFERRY_AUDIT_MODE", "synced"),
            ("KEYFERRY_TLS_CLIENT_CA", "a.pem, b.pem"),
            ("KEYFERRY_LIMITS_CONNECTIONS", "7"),
            ("KEYFERRY_LISTEN_ADMIN_TLS", "true"),
            ("KEYFERRY_STORES_MAIN_PROJECT", "another-project"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.grpc, "127.0.0.1:9000".parse().unwrap());
    assert_eq!(config.audit.mode, Mode::Synced);
    assert_eq!(config.tls.client_ca, [Path::new("a.pem"), Path::new("b.pem")]);
    assert_eq!(config.limits.connections, 7);
    assert!(config.listen.admin_tls);
    let StoreSettings::Gcp(gcp) = config.stores.values().next().unwrap() else { panic!() };
    assert_eq!(gcp.project, "another-project");
}

#[test]
fn lets_variables_stand_for_a_whole_section() {
    let file = "[policy]\ndirectory = \"p\"\n[stores.a]\nkind = \"local\"\nfile = \"f\"\nkey_file = \"k\"";
    let tls = [("KEYFERRY_TLS_CERTIFICATE", "c"), ("KEYFERRY_TLS_KEY", "k"), ("KEYFERRY_TLS_CLIENT_CA", "ca")];
    assert_eq!(parse_with(file, &tls).unwrap().tls.key, Path::new("k"));
}

#[test]
fn names_the_variable_that_is_wrong() {
    assert_eq!(
        report_of_variables(&[("KEYFERRY_LIMITS_CONNECTIONS", "many")]),
        "KEYFERRY_LIMITS_CONNECTIONS: [limits] connections: many is not a whole number; \
         write a whole number from 1 to 1000000"
    );
    assert_eq!(
        report_of_variables(&[("KEYFERRY_LISTEN_GRCP", ":1")]),
        "KEYFERRY_LISTEN_GRCP: no key has this variable; did you mean KEYFERRY_LISTEN_GRPC?"
    );
    let lines = report_of_variables(&[("KEYFERRY_STORES_OTHER_KIND", "local")]);
    assert!(lines.starts_with("KEYFERRY_STORES_OTHER_KIND: no key has this variable"), "{lines}");
}

#[test]
fn refuses_a_variable_that_means_two_keys() {
    let file = format!(
        "{SMALLEST}[stores.x]\nkind = \"local\"\nfile = \"f\"\nkey_file = \"k\"\n\
         [stores.x-key]\nkind = \"local\"\nfile = \"f\"\nkey_file = \"k\"\n"
    );
    parse(&file).unwrap();
    let lines = parse_with(&file, &[("KEYFERRY_STORES_X_KEY_FILE", "z")]).unwrap_err().to_string();
    assert!(lines.contains("means both [stores.x] key_file and [stores.x-key] file"), "{lines}");
}

#[test]
fn ignores_what_kubernetes_says_about_a_service_of_our_name() {
    let links = [
        ("KEYFERRY_CONFIG", "/etc/keyferry/keyferry.toml"),
        ("KEYFERRY_SERVICE_HOST", "10.0.0.1"),
        ("KEYFERRY_SERVICE_PORT", "7443"),
        ("KEYFERRY_SERVICE_PORT_GRPC", "7443"),
        ("KEYFERRY_PORT", "tcp://10.0.0.1:7443"),
        ("KEYFERRY_PORT_7443_TCP", "tcp://10.0.0.1:7443"),
        ("KEYFERRY_PORT_7443_TCP_PROTO", "tcp"),
        ("KEYFERRY_PORT_7443_TCP_PORT", "7443"),
        ("KEYFERRY_WEB_PORT_7444_TCP_ADDR", "10.0.0.1"),
    ];
    parse_with(SMALLEST, &links).unwrap();
    for (name, value) in [("KEYFERRY_PORT", "7443"), ("KEYFERRY_LISTEN_PORT", "1"), ("KEYFERRY_PORT_X_TCP", "1")] {
        assert!(report_of_variables(&[(name, value)]).starts_with(name));
    }
}

#[test]
fn reads_durations_and_sizes() {
    let interval = |text: &str| {
        let config = parse_with(SMALLEST, &[("KEYFERRY_LIMITS_DEFAULT_DEADLINE", text)]);
        config.map(|config| config.limits.default_deadline)
    };
    assert_eq!(interval("250ms").unwrap(), Duration::from_millis(250));
    assert_eq!(interval("1m").unwrap(), Duration::from_secs(60));
    for wrong in ["", "5", "s", "1.5s", "-1s", "1 s", "1d", "1S", "1h30m", "99ms", "11m", "99999999999999999999h"] {
        assert!(interval(wrong).is_err(), "{wrong}");
    }
    let size = |text: &str| {
        let config = parse_with(SMALLEST, &[("KEYFERRY_LIMITS_MESSAGE_BYTES", text)]);
        config.map(|config| config.limits.message_bytes)
    };
    assert_eq!(size("4MiB").unwrap(), 4 << 20);
    assert_eq!(size("2048B").unwrap(), 2048);
    for wrong in ["4MB", "1", "1.5MiB", "17MiB", "18446744073709551615GiB"] {
        assert!(size(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn refuses_an_admin_port_that_others_reach_without_tls() {
    for open in [":7445", "0.0.0.0:7445", "10.0.0.1:7445", "[::]:7445"] {
        let lines = report(&format!("[listen]\nadmin = \"{open}\""));
        assert!(lines.contains(":16:9: [listen] admin: leaves this machine without TLS"), "{lines}");
        parse(&format!("{SMALLEST}[listen]\nadmin = \"{open}\"\nadmin_tls = true")).unwrap();
    }
    for closed in ["127.0.0.1:1", "[::1]:1", "off"] {
        parse(&format!("{SMALLEST}[listen]\nadmin = \"{closed}\"")).unwrap();
    }
}

#[test]
fn refuses_two_listeners_on_one_port() {
    let lines = report("[listen]\ngrpc = \":9\"\nadmin = \"127.0.0.1:9\"");
    assert!(lines.contains("[listen] admin: has the address of grpc"), "{lines}");
    parse(&format!("{SMALLEST}[listen]\ngrpc = \":0\"\nweb = \":0\"\nadmin = \"127.0.0.1:0\"")).unwrap();
}

#[test]
fn refuses_a_certificate_without_its_key() {
    let lines = parse(&SMALLEST.replace("key = \"server.key\"\n", "")).unwrap_err().to_string();
    assert_eq!(
        lines,
        "keyferry.toml:1:1: [tls] key: is missing although certificate is given, \
         and they work only together; write a path"
    );
    let lines = parse(&SMALLEST.replace("certificate = \"server.pem\"\n", "")).unwrap_err().to_string();
    assert!(lines.contains("[tls] certificate: is missing although key is given"), "{lines}");
}

#[test]
fn refuses_to_demand_client_certificates_without_a_ca() {
    for none in ["", "client_ca = []\n"] {
        let file = SMALLEST.replace("client_ca = [\"clients.pem\"]\n", none);
        let lines = parse(&file).unwrap_err().to_string();
        assert!(lines.contains("[tls] client_ca: has no CA"), "{lines}");
        let optional = file.replace("[tls]", "[tls]\nclient_certificate = \"optional\"");
        parse(&optional).unwrap();
    }
}

#[test]
fn refuses_algorithms_that_prove_nothing() {
    for algorithm in ["none", "HS256", "rs256", "RS1"] {
        let issuer = "[issuers.a]\nurl = \"https://a.example\"\naudiences = [\"x\"]";
        let lines = report(&format!("{issuer}\nalgorithms = [\"{algorithm}\"]"));
        assert!(lines.contains("is not one of them; write one of \"RS256\""), "{lines}");
    }
    let lines = report("[issuers.a]\nurl = \"https://a.example\"\naudiences = []\nalgorithms = []");
    assert!(lines.contains("audiences: is empty") && lines.contains("algorithms: is empty"), "{lines}");
}

#[test]
fn refuses_two_issuers_with_one_url() {
    let issuer = |name: &str| format!("[issuers.{name}]\nurl = \"https://a.example\"\naudiences = [\"x\"]\n");
    let lines = report(&(issuer("a") + &issuer("b")));
    assert!(lines.contains(":19:7: [issuers.b] url: is another issuer's too"), "{lines}");
}

#[test]
fn takes_only_https_for_an_issuer_and_a_vault_for_azure() {
    let accepts = |url: &str| parse(&format!("{SMALLEST}[issuers.a]\nurl = \"{url}\"\naudiences = [\"x\"]")).is_ok();
    for right in ["https://a.example", "https://a.example/", "https://127.0.0.1:8443/x", "https://[::1]:1"] {
        assert!(accepts(right), "{right}");
    }
    let wrong = [
        "http://a.example",
        "https://",
        "https:///x",
        "https://user@a.example",
        "https://a.example?x=1",
        "https://a.example#x",
        "https://a b",
        "https://a..b",
        "https://[::1",
        "https://[::1]x",
        "https://a:0",
        "https://a:b",
        "HTTPS://a.example",
        "https://a:1:2",
    ];
    for wrong in wrong {
        assert!(!accepts(wrong), "{wrong}");
    }
    let vault = |url: &str| {
        let identity = "[credentials.azure]\nkind = \"azure-managed-identity\"\n";
        parse(&format!("{SMALLEST}{identity}[stores.a]\nkind = \"azure\"\nvault_url = \"{url}\"")).is_ok()
    };
    assert!(vault("https://kv-1.vault.azure.net") && vault("https://kv-1.vault.azure.cn/"));
    for wrong in [
        "https://kv.vault.azure.net",
        "https://kv-1.vault.azure.net.evil.example",
        "https://evil.example/.vault.azure.net",
        "https://kv-1.vault.azure.net/secrets",
        "http://kv-1.vault.azure.net",
        "https://a.kv.vault.azure.net",
    ] {
        assert!(!vault(wrong), "{wrong}");
    }
}

#[test]
fn refuses_the_keys_of_another_kind_of_store() {
    let identity = "[credentials.azure]\nkind = \"azure-managed-identity\"\n";
    let store = "[stores.a]\nkind = \"azure\"\nvault_url = \"https://abc.vault.azure.net\"\nproject = \"x\"";
    let lines = report(&format!("{identity}{store}"));
    assert_eq!(lines, "keyferry.toml:20:1: [stores.a] project: belongs to kind \"gcp\"; remove it, or change kind");
    let lines = report("[stores.a]\nkind = \"gpc\"\nproject = \"x-project\"");
    assert_eq!(lines.lines().count(), 1, "{lines}");
}

#[test]
fn refuses_a_credential_that_is_not_there_or_of_the_other_cloud() {
    let store = |credential: &str| {
        format!("[stores.a]\nkind = \"azure\"\nvault_url = \"https://abc.vault.azure.net\"\n{credential}")
    };
    assert_eq!(
        report(&store("")),
        "keyferry.toml:15:1: [stores.a] credential: there is no [credentials.azure]; add it, for example with \
         kind = \"azure-managed-identity\""
    );
    assert_eq!(
        report(&store("credential = \"google\"")),
        "keyferry.toml:18:14: [stores.a] credential: \"google\" is of the other cloud; name one such as of kind \
         \"azure-managed-identity\""
    );
}

#[test]
fn says_what_a_source_of_events_still_needs() {
    let stores = "[credentials.google]\nkind = \"google-metadata\"\n[credentials.azure]\nkind = \"azure-managed-identity\"\n\
                  [stores.gcp]\nkind = \"gcp\"\nproject = \"example\"\n\
                  [stores.vault]\nkind = \"azure\"\nvault_url = \"https://abc.vault.azure.net\"\n";
    let report = |events: &str| report(&format!("{stores}{events}"));
    let pulled = |stores: &str| {
        format!("[events.e]\nkind = \"pubsub\"\nstores = [{stores}]\nsubscription = \"projects/p/subscriptions/s\"\n")
    };
    for (events, expected) in [
        (
            pulled("\"gcp\""),
            "whose project Google's events call by its number; write project_number under [stores.gcp]",
        ),
        (pulled("\"vault\""), "names \"vault\", which is not of the cloud that this source is of; remove it"),
        (pulled("\"none\""), "names \"none\", and there is no [stores.none]; add it"),
        (pulled(""), "[events.e] stores: is empty; write a list, each the name of a store"),
        (
            "[events.e]\nkind = \"event-grid\"\nstores = [\"vault\"]\naudience = \"a\"\n\
             tenant = \"11f0c0de-0000-4000-8000-00000000000a\"\n"
                .to_owned(),
            "[events.e] kind: delivers to the web port, which is off; write [listen] web, such as \":7444\"",
        ),
        (pulled("\"gcp\"").replace("projects/p/", ""), "is not a subscription's full name"),
    ] {
        let report = report(&events);
        assert!(report.contains(expected), "{report}");
    }
}

#[test]
fn a_gateway_s_named_values_are_of_key_vaults_that_are_declared() {
    let around = "[credentials.azure]\nkind = \"azure-managed-identity\"\n\
                  [stores.vault]\nkind = \"azure\"\nvault_url = \"https://abc.vault.azure.net/\"\n";
    let service = "/subscriptions/1-2/resourceGroups/rg/providers/Microsoft.ApiManagement/service/apim";
    let gateway = |service: &str, named_values: &str| {
        format!(
            "{around}[gateways.g]\nkind = \"api-management\"\nservice = \"{service}\"\nnamed_values = {{ {named_values} }}\n"
        )
    };
    let config = parse(&format!("{SMALLEST}{}", gateway(service, "key = \"stores/vault/secrets/key\""))).unwrap();
    let (_, settings) = config.gateways.first_key_value().unwrap();
    assert_eq!(settings.named_values["key"].identifier, "https://abc.vault.azure.net/secrets/key");
    for (service, named_values, expected) in [
        (service, "", "[gateways.g] named_values: has nothing to refresh"),
        (service, "key = \"stores/main/secrets/key\"", "stores/main/secrets/key, which is not in Azure Key Vault"),
        (service, "key = \"stores/none/secrets/key\"", "a store that is not declared; add [stores.none]"),
        (service, "\"a/../b\" = \"stores/vault/secrets/key\"", "named_values.a/../b: the name has '/' in it"),
        (service, "\"..\" = \"stores/vault/secrets/key\"", "begins with a dot"),
        (
            "/subscriptions/1-2/apim",
            "key = \"stores/vault/secrets/key\"",
            "is not the resource id of an API Management",
        ),
        (&service.replace("/rg/", "/../"), "key = \"stores/vault/secrets/key\"", "a part that begins with a dot"),
    ] {
        let report = report(&gateway(service, named_values));
        assert!(report.contains(expected), "{report}");
    }
}

#[test]
fn event_grids_tokens_are_its_tenants_in_both_their_forms() {
    let tenant = "11f0c0de-0000-4000-8000-00000000000a";
    let text = format!(
        "{SMALLEST}[listen]\nweb = \":7444\"\n[credentials.azure]\nkind = \"azure-managed-identity\"\n\
         [stores.vault]\nkind = \"azure\"\nvault_url = \"https://abc.vault.azure.net\"\n\
         [events.grid]\nkind = \"event-grid\"\nstores = [\"vault\"]\naudience = \"a\"\ntenant = \"{tenant}\"\n"
    );
    let config = parse(&text).unwrap();
    let SourceSettings::EventGrid(sender) = &config.events["grid"].source else { panic!("{:?}", config.events) };
    let issuers: Vec<_> = sender.issuers.iter().map(|issuer| (issuer.name.as_str(), issuer.url.as_str())).collect();
    let (old, new) =
        (format!("https://sts.windows.net/{tenant}/"), format!("https://login.microsoftonline.com/{tenant}/v2.0"));
    assert_eq!(issuers, [("grid-1", &*old), ("grid-2", &*new)]);
    assert!(sender.issuers.iter().all(|issuer| issuer.audiences == ["a"] && issuer.algorithms == [Algorithm::Rs256]));
    let demands: Vec<_> = sender.demands.iter().map(|demand| demand.value.as_str()).collect();
    assert_eq!(demands, [tenant, "4962773b-9cdb-44cf-a8bf-237846a00ab7", "AzureEventGridSecureWebhookSubscriber"]);
}

const BOTH_WAYS: &str = r#"
[credentials.managed]
kind = "azure-managed-identity"
client_id = "id-1"
[credentials.from-azure]
kind = "google-federation"
from = "managed"
provider = "projects/42/locations/global/workloadIdentityPools/azure/providers/entra"
resource = "api://keyferry"
service_account = "broker@example.iam.gserviceaccount.com"
[credentials.from-google]
kind = "azure-federation"
from = "google"
tenant = "example.onmicrosoft.com"
client_id = "id-2"
"#;

#[test]
fn follows_from_to_the_credential_that_it_names() {
    let config = parse(&format!("{SMALLEST}{BOTH_WAYS}")).unwrap_or_else(|e| panic!("{e}"));
    let CredentialSettings::Google(GoogleIdentity::Federation(federation)) = &config.credentials["from-azure"] else {
        panic!("{:?}", config.credentials)
    };
    assert_eq!(CredentialSettings::Azure(federation.from.clone()), config.credentials["managed"]);
    let CredentialSettings::Azure(AzureIdentity::Federation { signer, audience, .. }) =
        &config.credentials["from-google"]
    else {
        panic!("{:?}", config.credentials)
    };
    assert_eq!(audience, "api://AzureADTokenExchange");
    assert_eq!(*signer, IdTokenSigner::Metadata { url: "http://metadata.google.internal".to_owned() });
}

#[test]
fn says_what_is_wrong_with_a_federation() {
    let wrong = |from: &str, to: &str| {
        assert!(BOTH_WAYS.contains(from));
        let problems = parse(&format!("{SMALLEST}{}", BOTH_WAYS.replacen(from, to, 1))).unwrap_err();
        let line = problems.to_string();
        assert!(line.starts_with("keyferry.toml:") && line.lines().count() == 1, "{line}");
        line
    };
    for (from, to, says) in [
        (
            "from = \"managed\"",
            "from = \"manged\"",
            "there is no [credentials.manged]; add it, of kind azure-managed-identity",
        ),
        ("from = \"managed\"", "from = \"google\"", "is of the same cloud"),
        ("from = \"managed\"", "from = \"from-google\"", "is itself federated"),
        ("projects/42/", "projects/example/", "by its id, and Google wants its number"),
        ("\"projects/42/", "\"//iam.googleapis.com/projects/42/", "is not the resource name"),
        ("client_id = \"id-2\"", "", "client_id: is missing"),
        ("client_id = \"id-1\"", "tenant = \"t\"", "belongs to kind \"azure-workload-identity or azure-federation\""),
        ("client_id = \"id-1\"", "identity_url = \"http://10.0.0.1\"", "stays on this host"),
        ("resource = \"api://keyferry\"", "", "resource: is missing"),
        ("broker@example.iam", "Broker@example.iam", "has 'B' in it"),
    ] {
        let line = wrong(from, to);
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn refuses_a_configuration_without_a_store() {
    let lines = parse(SMALLEST.split("[stores").next().unwrap()).unwrap_err().to_string();
    assert!(lines.starts_with("keyferry.toml: [stores]: no store is declared"), "{lines}");
}

#[test]
fn never_quotes_a_key() {
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHNlY3JldA==\n-----END PRIVATE KEY-----";
    for file in [key.to_owned(), SMALLEST.replace("\"server.key\"", &format!("\"\"\"{key}\"\"\""))] {
        let found = parse(&file).unwrap_err();
        assert_eq!(found.iter().count(), 1);
        assert!(found.to_string().contains("a private key is in the configuration; move it"), "{found}");
        assert!(!format!("{found} {found:?}").contains("MC4CAQ"), "{found}");
    }
    let lines = report_of_variables(&[("KEYFERRY_TLS_KEY", key)]);
    assert!(lines.contains("a PEM text is the content of a file; write a path"), "{lines}");
    assert!(!lines.contains("MC4CAQ"), "{lines}");
}

#[test]
fn resolves_paths_from_the_directory_of_the_file() {
    let config = Config::parse(SMALLEST, Path::new("/etc/keyferry/keyferry.toml"), [], "n").unwrap();
    assert_eq!(config.tls.certificate, Path::new("/etc/keyferry/server.pem"));
    assert_eq!(config.audit.signing_key, Path::new("/etc/keyferry/audit-signing.key"));
}

#[test]
fn asks_for_a_name_where_the_host_has_none() {
    let found = Config::parse(SMALLEST, Path::new("keyferry.toml"), [], "").unwrap_err().to_string();
    assert!(found.starts_with("keyferry.toml: [node] name: \"\" is empty; write 1 to 253 letters"), "{found}");
}

#[test]
fn reports_every_file_that_is_missing_or_open_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, mode: u32| {
        let path = directory.path().join(name);
        fs::write(&path, "x").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let path = directory.path().join("keyferry.toml");
    fs::write(&path, SMALLEST).unwrap();
    write("server.key", 0o604);
    write("clients.pem", 0o644);
    write("policy", 0o644);
    let config = Config::load(&path, [], "n").unwrap();
    let found: Vec<String> = config.check_files().iter().map(ToString::to_string).collect();
    let [certificate, key, policy] = &found[..] else { panic!("{found:#?}") };
    assert!(certificate.contains("keyferry.toml:2:15: [tls] certificate: "), "{certificate}");
    assert!(certificate.contains("server.pem does not exist; put it there"), "{certificate}");
    assert!(key.contains("is open to others (mode 604); run chmod 600"), "{key}");
    assert!(policy.contains("is not a directory"), "{policy}");

    write("server.pem", 0o644);
    write("server.key", 0o600);
    fs::remove_file(directory.path().join("policy")).unwrap();
    fs::create_dir(directory.path().join("policy")).unwrap();
    assert_eq!(config.check_files(), []);
}

#[test]
fn says_what_to_do_about_a_file_that_it_cannot_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keyferry.toml");
    let load = || Config::load(&path, [], "n").unwrap_err().to_string();
    assert!(load().contains("cannot read the configuration: No such file"), "{}", load());
    fs::write(&path, b"[tls]\n\xff").unwrap();
    assert!(load().contains("line 2 is not UTF-8 text"), "{}", load());
    fs::write(&path, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(load().contains("has more than 1048576 bytes"), "{}", load());
}

#[test]
fn refuses_what_is_too_large_or_too_deep() {
    assert!(parse(&"#".repeat((1 << 20) + 1)).unwrap_err().to_string().contains("at most 1048576"));
    let deep = [
        format!("a = {}", "[".repeat(500_000)),
        format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("a = {}", "{a=".repeat(300_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        "[tls]\n".repeat(100_000),
        (0..60_000).map(|key| format!("k{key} = 1\n")).collect(),
        format!("[limits]\n{}", (0..60_000).map(|key| format!("k{key} = 1\n")).collect::<String>()),
        "[\n".repeat(400_000),
    ];
    for text in deep {
        let found = parse(&text).unwrap_err().to_string();
        assert!(found.lines().count() <= 101);
    }
}

/// A fixed sequence, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

#[test]
fn survives_a_hundred_thousand_mutilated_files() {
    let seeds = [include_str!("testdata/full.toml"), include_str!("testdata/wrong.toml"), SMALLEST, ""];
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            scope.spawn(move || {
                let mut random = Random(seed);
                for round in 0..25_000 {
                    let text = mutilated(seeds[round % seeds.len()], &mut random);
                    if let Err(found) = parse(&text) {
                        assert!(!found.to_string().is_empty(), "{text}");
                    }
                }
            });
        }
    });
}

/// A piece of the file, with some characters lost and others put in.
fn mutilated(file: &str, random: &mut Random) -> String {
    const PIECES: [&str; 16] =
        ["[", "]", "{", "}", "=", "\"", "\"\"\"", "'", "\n", ".", "ü", "\u{feff}", "0x", "1e9", "#", "\\u"];
    let mut text: Vec<char> = file.chars().collect();
    let start = random.below(text.len() + 1);
    let end = text.len().min(start + 300);
    text = text[start..end].to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(text.len() + 1);
        match random.below(3) {
            0 => drop(text.drain(at..text.len().min(at + random.below(8)))),
            1 => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
            _ => text.insert(at, char::from_u32(u32::try_from(random.below(0x500)).unwrap()).unwrap()),
        }
    }
    text.into_iter().collect()
}
