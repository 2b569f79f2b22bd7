use keyferry_proto::v1::{CloudCredentialStatus, QuotaLedgerEntry};

use super::*;

fn page_of(overview: &Overview) -> String {
    page(overview, &[])
}

fn status() -> BrokerStatus {
    let error = |message: &str| Some(ErrorDetail { message: message.to_owned(), ..ErrorDetail::default() });
    let bad = HealthState::Unhealthy.into();
    BrokerStatus {
        node: "<b>one</b>".to_owned(),
        server_time: Some(ProtoTime { seconds: 1_000_000, nanos: 0 }),
        start_time: Some(ProtoTime { seconds: 1_000_000 - 7_200, nanos: 0 }),
        stores: vec![StoreStatus {
            name: "stores/payments".to_owned(),
            health: bad,
            last_error: error("the store throttles; wait"),
            circuit: CircuitState::Open.into(),
            credential: Some(CloudCredentialStatus {
                health: bad,
                chain: vec!["metadata".to_owned(), "sts".to_owned()],
                failed_link: "sts".to_owned(),
                last_error: error("the pool refuses \"<script>\""),
                ..CloudCredentialStatus::default()
            }),
            quota: vec![QuotaLedgerEntry {
                operation: 1,
                limit: 100,
                used: 40,
                forecast: 90,
                ..QuotaLedgerEntry::default()
            }],
            success_time: Some(ProtoTime { seconds: 1_000_000 - 30, nanos: 0 }),
            ..StoreStatus::default()
        }],
        ..BrokerStatus::default()
    }
}

#[test]
fn what_is_broken_stands_first_in_its_own_words() {
    let page = page_of(&Overview { status: status(), ..Overview::default() });
    let troubles = page.find("Wants attention").unwrap();
    assert!(troubles < page.find("<h2>Stores").unwrap());
    for words in
        ["the store throttles; wait", "stores/payments, its credential", "failed at sts", "30 s ago", "up for 2 h"]
    {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(page.contains("<meter max=\"100\" value=\"40\"></meter> 40 of 100"), "{page}");
    assert!(page.contains("<span class=\"fair\">90</span>"), "{page}");
    let well = page_of(&Overview::default());
    assert!(!well.contains("Wants attention") && well.contains("ready"), "{well}");
    assert!(super::page(&Overview::default(), &["draining: soon".to_owned()]).contains("draining: soon"));
}

#[test]
fn no_name_breaks_out_of_its_place() {
    let hostile = "\"><script>alert('x')</script>&";
    let overview = Overview {
        status: status(),
        rotations: vec![RotationRow {
            name: hostile.to_owned(),
            targets: vec![TargetRow { secret: hostile.to_owned(), old: Some(hostile.into()), new: None }],
            stage: "failed",
            since: Timestamp::from_secs(999_000),
            attempts: 3,
            trouble: Some(hostile.to_owned()),
            is_over: true,
        }],
        subscribers: vec![SubscriberRow {
            caller: hostile.into(),
            name: hostile.to_owned(),
            node: Some(hostile.to_owned()),
            last_seen: Timestamp::from_secs(0),
            behind: 4,
            runs: vec![RunRow {
                secret: hostile.to_owned(),
                version: Some(hostile.into()),
                since: Timestamp::from_secs(0),
                refused: Some(hostile.to_owned()),
            }],
        }],
        subscriber_count: 3,
    };
    let page = page_of(&overview);
    // The one script is the page's own.
    assert_eq!(page.matches("<script").count(), 1, "{page}");
    assert!(!page.contains("alert('") && !page.contains("<b>one") && page.contains("&lt;b&gt;one"), "{page}");
    assert!(page.contains("and 2 more"), "{page}");
}

#[test]
fn times_read_at_a_glance() {
    for (seconds, words) in [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 days")] {
        assert_eq!(Ago(seconds).to_string(), words);
    }
    let at = |seconds| ProtoTime { seconds, nanos: 0 };
    assert_eq!(Since(None, 0).to_string(), "never");
    assert_eq!(Until(Some(&at(10)), 10).to_string(), "it has ended");
    assert_eq!(Until(Some(&at(70)), 10).to_string(), "60 s");
}
