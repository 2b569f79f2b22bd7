use std::time::Duration;

use tokio::net::TcpStream;

use super::super::Limits;
use super::world::{Broker, Files, limits, ours};

#[tokio::test]
async fn a_drain_lets_the_call_in_flight_finish_and_takes_no_new_ones() {
    let broker = Broker::start(&Files::new()).await;
    let cart = ours().client("cart", 1);
    let idle = broker.client(&cart).await;
    let mut busy = broker.client(&cart).await;
    let call = tokio::spawn(async move { busy.call("/slow").await });
    broker.slow.entered.acquire().await.unwrap().forget();

    broker.drain.start();
    assert!(broker.drain.is_draining());
    idle.connection.await.unwrap();
    assert!(broker.try_client(&cart).await.is_err());
    assert!(!call.is_finished());

    broker.slow.release.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap(), "/cart");
    broker.drain.drained().await;
    broker.serving.await.unwrap();
    assert!(TcpStream::connect(broker.address).await.is_err());
    assert_eq!(broker.tls.stats().open(), 0);
    assert_eq!(broker.tls.stats().cut_off(), 0);
}

#[tokio::test]
async fn a_call_that_outlasts_the_grace_is_dropped() {
    let files = Files::new();
    let short = Limits { drain_grace: Duration::from_millis(100), ..limits() };
    let broker = Broker::with(files.settings(), short).await;
    let mut client = broker.client(&ours().client("cart", 1)).await;
    let call = tokio::spawn(async move { client.call("/slow").await });
    broker.slow.entered.acquire().await.unwrap().forget();
    broker.drain.start();
    broker.drain.drained().await;
    broker.slow.dropped.acquire().await.unwrap().forget();
    assert!(call.await.unwrap().is_err());
    assert_eq!(broker.tls.stats().cut_off(), 1);
}

#[tokio::test]
async fn a_handshake_under_way_does_not_hold_up_a_drain() {
    let broker = Broker::start(&Files::new()).await;
    let _stalled = TcpStream::connect(broker.address).await.unwrap();
    broker.drain.start();
    broker.drain.drained().await;
}

#[tokio::test]
async fn dropping_the_server_ends_its_connections_and_their_calls() {
    let broker = Broker::start(&Files::new()).await;
    let mut client = broker.client(&ours().client("cart", 1)).await;
    let call = tokio::spawn(async move { client.call("/slow").await });
    broker.slow.entered.acquire().await.unwrap().forget();
    broker.serving.abort();
    assert!(call.await.unwrap().is_err());
    broker.slow.dropped.acquire().await.unwrap().forget();
    assert_eq!(broker.tls.stats().open(), 0);
}
