//! Peers that mean harm, for a moment each; `make attack` lets them go on for longer, and be many.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt as _;
use keyferry_tests::attack::{Attack, Flood, Pace, Siege, Strength, bombs};
use keyferry_tests::broker::TestBroker;
use keyferry_tests::process::keyferry;
use tonic::Status;

use crate::status::reason;
use crate::transport::{bytes, client, posted};

/// A build without optimisation, beside the other suites: only what stands still, or grows without end, shows here.
const SHORT: Pace = Pace {
    calm: Duration::from_secs(1),
    attack: Duration::from_millis(1_200),
    call_every: Duration::from_millis(20),
    strength: Strength { peers: 4, sockets: 300, idle: 300 },
    noise: Duration::from_secs(1),
    newcomers_noise: Duration::from_secs(3),
    memory_noise_kib: 128 << 10,
};

#[test]
fn floods_hurt_no_good_caller() {
    withstands(&Flood::ALL.map(Attack::Flood));
}

#[test]
fn slow_and_silent_peers_hurt_no_good_caller() {
    // Unoptimised, the answers that nobody takes cost more to encode than to hold: those are for `make attack`.
    let slow: Vec<_> = Attack::SLOW.into_iter().filter(|attack| !matches!(attack, Attack::UntakenAnswers)).collect();
    withstands(&slow);
}

#[test]
fn messages_that_are_more_than_they_seem_hurt_no_good_caller() {
    withstands(&[Attack::Bombs]);
}

#[test]
fn a_crowd_of_idle_connections_costs_its_memory_and_no_good_caller() {
    withstands(&[Attack::Idle]);
}

#[tokio::test]
async fn each_request_that_is_more_than_it_seems_is_refused() {
    let broker = TestBroker::start().await;
    let mut sender = client(&broker, 65_535).await;
    for bomb in bombs() {
        let what = format!("{} of {} bytes as {}", bomb.method, bomb.body.len(), bomb.content_type);
        let mut request = posted(&format!("/keyferry.v1.SecretService/{}", bomb.method), bytes(&bomb.body));
        request.headers_mut().insert("content-type", bomb.content_type.parse().unwrap());
        let answer = sender.send_request(request).await.unwrap();
        let told = match Status::from_header_map(answer.headers()) {
            Some(status) => reason(&status),
            None => {
                assert!(answer.status().is_client_error(), "{what}: {}", answer.status());
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                String::from_utf8_lossy(&body).into_owned()
            }
        };
        let is_refused = ["MESSAGE_TOO_LARGE", "INVALID_ARGUMENT", "INVALID_NAME", "UNIMPLEMENTED"]
            .iter()
            .any(|why| told.contains(why));
        assert!(is_refused, "{what}: {told}");
    }
}

/// One at a time: what is measured shall be one attack's doing.
fn withstands(attacks: &[Attack]) {
    static ALONE: Mutex<()> = Mutex::new(());
    let program = keyferry();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut siege = Siege::start(program, SHORT);
    let mut missed = Vec::new();
    for attack in attacks {
        let figures = siege.suffer(*attack);
        println!("{figures}");
        missed.extend(figures.missed());
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
