//! Callers that would pass for others.

use keyferry_proto::v1::{Caller, ListSecretsRequest, WhoAmIRequest};
use keyferry_tests::broker::{TestBroker, get};
use keyferry_tests::pki::Issued;
use tonic::metadata::AsciiMetadataKey;
use tonic::{Request, Status};

use crate::audit::records;
use crate::status::refused;

/// What proxies and platforms write, and some servers believe.
const CLAIMS: [(&str, &str); 10] = [
    ("x-forwarded-client-cert", "By=spiffe://test.keyferry/gateway;URI=spiffe://test.keyferry/operator"),
    ("x-forwarded-for", "192.0.2.7"),
    ("forwarded", "for=192.0.2.7;by=gateway"),
    ("x-real-ip", "192.0.2.7"),
    ("x-ssl-client-s-dn", "CN=operator"),
    ("x-spiffe-id", "spiffe://test.keyferry/operator"),
    ("x-ms-client-principal-id", "operator"),
    ("x-goog-authenticated-user-email", "accounts.google.com:operator@example.com"),
    ("x-remote-user", "operator"),
    ("x-vault-token", "operator"),
];

async fn who(broker: &TestBroker, caller: &Issued, headers: &[(&str, &str)]) -> Result<Caller, Status> {
    let mut request = Request::new(WhoAmIRequest {});
    for (name, value) in headers {
        request.metadata_mut().insert(name.parse::<AsciiMetadataKey>().unwrap(), value.parse().unwrap());
    }
    Ok(broker.operations(caller).await.who_am_i(request).await?.into_inner().caller.unwrap())
}

#[tokio::test]
async fn headers_that_name_another_caller_are_only_headers() {
    let broker = TestBroker::start().await;
    let plain = who(&broker, &broker.operator, &[]).await.unwrap();
    assert_eq!(plain.id, "x509/spiffe://test.keyferry/operator");
    for claim in CLAIMS {
        assert_eq!(who(&broker, &broker.operator, &[claim]).await.unwrap(), plain, "{claim:?}");
        assert_eq!(refused(who(&broker, &broker.client, &[claim]).await), "ACCESS_DENIED", "{claim:?}");
    }
    assert_eq!(refused(who(&broker, &broker.client, &CLAIMS).await), "ACCESS_DENIED");
    for record in records(&broker.path().join("audit")) {
        assert!(!record.to_string().contains("192.0.2.7"), "the peer is who is connected: {record}");
    }
}

#[tokio::test]
async fn a_sibling_certificate_of_the_same_ca_is_somebody_else() {
    let broker = TestBroker::start().await;
    broker.put("db", b"value", &[]).await;
    broker.put("other", b"value", &[]).await;
    for name in ["client2", "clien", "Client", "client/operator", "x/client", "operator2"] {
        let mut sibling = broker.secrets(&broker.ca.client(name)).await;
        assert_eq!(refused(get(&mut sibling, "db").await), "ACCESS_DENIED", "{name}");
    }
    // Nor is what was handed to one of use to another, however much the other may.
    let page = |page_token: String| ListSecretsRequest {
        parent: "stores/local".into(),
        page_size: 1,
        page_token,
        ..ListSecretsRequest::default()
    };
    let mut client = broker.secrets(&broker.client).await;
    let next = client.list_secrets(page(String::new())).await.unwrap().into_inner().next_page_token;
    assert!(!next.is_empty());
    let mut operator = broker.secrets(&broker.operator).await;
    assert_eq!(refused(operator.list_secrets(page(next.clone())).await), "INVALID_PAGE_TOKEN");
    client.list_secrets(page(next)).await.unwrap();
}
