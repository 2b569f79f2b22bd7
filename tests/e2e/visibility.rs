//! What policy hides cannot be told from what is not there.

use std::fs;
use std::sync::Arc;

use keyferry_broker::clock::SystemClock;
use keyferry_proto::v1::{
    AddSecretVersionRequest, BatchGetSecretsRequest, DisableSecretVersionRequest, GetSecretRequest,
    ListSecretVersionsRequest, ListSecretsRequest, RefreshSecretRequest, batch_get_secrets_result::Result as Entry,
};
use keyferry_tests::broker::{TestBroker, get};
use tonic::Status;

use crate::reload::eventually;
use crate::status::{reason, refused};

pub(crate) const HIDING: &str = r#"
permit (principal, action, resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/client" }
unless { resource is Keyferry::Secret && resource.hasTag("env") && resource.getTag("env") == "prod" };
permit (principal, action, resource)
when { principal has certificate && principal.certificate has spiffe && principal.certificate.spiffe.path == "/operator" };
"#;

/// A broker whose client may do everything but touch what is labelled `prod`.
async fn hiding() -> TestBroker {
    hiding_with("").await
}

async fn hiding_with(more: &str) -> TestBroker {
    let broker = TestBroker::with(more, Arc::new(SystemClock)).await;
    enforce(&broker, HIDING).await;
    broker.put("hidden", b"x", &[("env", "prod")]).await;
    broker
}

pub(crate) async fn enforce(broker: &TestBroker, policy: &str) {
    let before = broker.broker.parts().gate.policies().status().hash;
    fs::write(broker.path().join("policy/test.cedar"), policy).unwrap();
    let changed = async || broker.broker.parts().gate.policies().status().hash != before;
    eventually("the policy is in force", changed).await;
}

pub(crate) fn assert_alike(hidden: &Status, absent: &Status, told: &str) {
    assert_eq!((reason(hidden), reason(absent)), (told.to_owned(), told.to_owned()));
    let alike = hidden.message().replace("/hidden", "/absent");
    assert_eq!((hidden.code(), alike.as_str()), (absent.code(), absent.message()));
    assert_eq!(hidden.details().len(), absent.details().len());
}

#[tokio::test]
async fn what_is_asked_beyond_the_name_tells_hidden_from_absent_no_more() {
    let broker = hiding().await;
    let mut client = broker.secrets(&broker.client).await;
    for (version, min_revision, epoch, told) in [
        ("", 1, "00", "EPOCH_CHANGED"),
        ("", 999_999, "", "REVISION_NOT_REACHED"),
        ("/versions/abc", 0, "", "VERSION_NOT_FOUND"),
        ("/versions/01", 0, "", "VERSION_NOT_FOUND"),
        ("/versions/1", 0, "", "SECRET_NOT_FOUND"),
        ("/versions/7", 0, "", "SECRET_NOT_FOUND"),
    ] {
        let mut read = async |id: &str| {
            let name = format!("stores/local/secrets/{id}{version}");
            let request = GetSecretRequest { name, min_revision, epoch: epoch.into(), ..Default::default() };
            client.get_secret(request).await.unwrap_err()
        };
        assert_alike(&read("hidden").await, &read("absent").await, told);
    }

    let mut operations = broker.operations(&broker.client).await;
    for (version, told) in [("abc", "VERSION_NOT_FOUND"), ("1", "SECRET_NOT_FOUND")] {
        let name = |id: &str| format!("stores/local/secrets/{id}/versions/{version}");
        let mut refresh =
            async |id: &str| operations.refresh_secret(RefreshSecretRequest { name: name(id) }).await.unwrap_err();
        assert_alike(&refresh("hidden").await, &refresh("absent").await, told);
        let mut disable = async |id: &str| {
            let request = DisableSecretVersionRequest { name: name(id), ..Default::default() };
            client.disable_secret_version(request).await.unwrap_err()
        };
        assert_alike(&disable("hidden").await, &disable("absent").await, told);
    }
}

#[tokio::test]
async fn the_hidden_and_the_absent_cost_quota_alike() {
    for first in ["hidden", "absent"] {
        let broker = hiding_with("[quota]\ndistinct_secrets = 1\n").await;
        let mut client = broker.secrets(&broker.client).await;
        assert_eq!(refused(get(&mut client, first).await), "SECRET_NOT_FOUND");
        for second in ["hidden", "absent"] {
            let told = if first == second { "SECRET_NOT_FOUND" } else { "DISTINCT_SECRETS_EXCEEDED" };
            assert_eq!(refused(get(&mut client, second).await), told, "{second} after {first}");
        }
    }
}

#[tokio::test]
async fn a_secret_that_its_label_hides_answers_like_an_absent_one_for_every_method() {
    let broker = hiding().await;
    let mut client = broker.secrets(&broker.client).await;
    let hidden = get(&mut client, "hidden").await.unwrap_err();
    let absent = get(&mut client, "absent").await.unwrap_err();
    assert_eq!(reason(&hidden), "SECRET_NOT_FOUND");
    let alike = |text: &str| text.replace("/hidden", "/absent");
    assert_eq!((hidden.code(), alike(hidden.message())), (absent.code(), absent.message().to_owned()));
    assert_eq!(hidden.details().len(), absent.details().len());

    let versions =
        |id: &str| ListSecretVersionsRequest { parent: format!("stores/local/secrets/{id}"), ..Default::default() };
    let hidden = client.list_secret_versions(versions("hidden")).await.unwrap_err();
    let absent = client.list_secret_versions(versions("absent")).await.unwrap_err();
    assert_eq!((hidden.code(), alike(hidden.message())), (absent.code(), absent.message().to_owned()));

    let add = |id: &str| AddSecretVersionRequest { parent: format!("stores/local/secrets/{id}"), ..Default::default() };
    let hidden = client.add_secret_version(add("hidden")).await.unwrap_err();
    let absent = client.add_secret_version(add("absent")).await.unwrap_err();
    assert_eq!((hidden.code(), alike(hidden.message())), (absent.code(), absent.message().to_owned()));

    // On record it was a denial all the same.
    let records = crate::audit::records(&broker.path().join("audit"));
    let read = records
        .iter()
        .find(|record| record["resource"] == "stores/local/secrets/hidden" && record["decision"] == "deny");
    assert_eq!(read.unwrap()["outcome"], "SECRET_NOT_FOUND");
}

#[tokio::test]
async fn a_label_that_the_caller_may_not_touch_cannot_be_created_either() {
    let broker = hiding().await;
    let mut client = broker.secrets(&broker.client).await;
    let create = |env: &str| AddSecretVersionRequest {
        parent: format!("stores/local/secrets/new-{env}"),
        allow_missing: true,
        labels: [("env".to_owned(), env.to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(refused(client.add_secret_version(create("prod")).await), "ACCESS_DENIED");
    client.add_secret_version(create("dev")).await.unwrap();
}

#[tokio::test]
async fn a_list_tells_neither_how_many_are_hidden_nor_their_names() {
    let broker = hiding().await;
    for index in 0..20 {
        let env = if index % 4 == 0 { "dev" } else { "prod" };
        broker.put(&format!("s{index:02}"), b"x", &[("env", env)]).await;
    }
    let mut client = broker.secrets(&broker.client).await;
    let (mut token, mut pages) = (String::new(), Vec::new());
    loop {
        let request =
            ListSecretsRequest { parent: "stores/local".into(), page_size: 2, page_token: token, ..Default::default() };
        let page = client.list_secrets(request).await.unwrap().into_inner();
        pages.push((page.secrets.len(), page.next_page_token.len()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages.iter().map(|page| page.0).sum::<usize>(), 5);
    assert!(pages[..pages.len() - 1].iter().all(|page| page.0 == 2), "{pages:?}");
    let lengths: Vec<_> = pages.iter().map(|page| page.1).filter(|length| *length > 0).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
}

#[tokio::test]
async fn a_batch_records_each_decision_and_leaves_out_what_would_not_fit() {
    let broker = hiding().await;
    let mut requests = Vec::new();
    for index in 0..20 {
        broker.put(&format!("big{index}"), &[b'x'; 65_536], &[]).await;
        requests.push(GetSecretRequest { name: format!("stores/local/secrets/big{index}"), ..Default::default() });
    }
    requests.push(GetSecretRequest { name: "stores/local/secrets/hidden".into(), ..Default::default() });
    let mut client = broker.secrets(&broker.client).await;
    let results = client.batch_get_secrets(BatchGetSecretsRequest { requests }).await.unwrap().into_inner().results;
    let read = results.iter().filter(|entry| matches!(entry.result, Some(Entry::Secret(_)))).count();
    assert_eq!(read, 16, "1 MiB of 64 KiB each");
    let Some(Entry::Error(error)) = &results[16].result else { panic!("{:?}", results[16]) };
    assert_eq!(format!("{:?}", error.reason()), "MessageTooLarge");

    let records = crate::audit::records(&broker.path().join("audit"));
    let batch = records.iter().find(|record| record["items"].is_array()).unwrap();
    let item = |index: usize| {
        (batch["items"][index]["decision"].as_str().unwrap(), batch["items"][index]["outcome"].as_str().unwrap())
    };
    assert_eq!(
        (item(0), item(16), item(20)),
        (("allow", "OK"), ("allow", "MESSAGE_TOO_LARGE"), ("deny", "SECRET_NOT_FOUND"))
    );
}
