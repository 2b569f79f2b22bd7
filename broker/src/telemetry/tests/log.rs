use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;

#[derive(Clone, Debug, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn settings(filter: &str, log_format: LogFormat) -> Settings {
    Settings {
        log_filter: filter.to_owned(),
        log_format,
        otlp_endpoint: None,
        otlp_interval: Duration::from_secs(60),
        trace_permille: 0,
    }
}

fn logged(filter: &str, log_format: LogFormat, say: impl FnOnce()) -> String {
    let page = Page::default();
    let writer = page.clone();
    let subscriber = subscriber(&settings(filter, log_format), move || writer.clone(), None).unwrap();
    tracing::dispatcher::with_default(&subscriber, say);
    page.text()
}

#[test]
fn writes_one_json_object_a_line() {
    let text = logged("info", LogFormat::Json, || {
        tracing::info!(target: "keyferry_broker", store = "a\nb\"c", count = 3, "loaded");
        tracing::warn!(target: "keyferry_broker", "second");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["message"], "loaded");
    assert_eq!(lines[0]["store"], "a\nb\"c");
    assert_eq!(lines[0]["count"], 3);
    assert_eq!(lines[0]["level"], "INFO");
    assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn writes_text_without_colours() {
    let text = logged("info", LogFormat::Text, || tracing::info!(target: "keyferry_broker", count = 3, "loaded"));
    assert!(text.contains("loaded count=3") && !text.contains('\x1b'), "{text}");
}

#[test]
fn follows_the_filter() {
    let text = logged("warn,keyferry_broker::providers=debug", LogFormat::Json, || {
        tracing::info!(target: "keyferry_broker", "left out");
        tracing::debug!(target: "keyferry_broker::providers", "kept");
    });
    assert!(text.contains("kept") && !text.contains("left out"), "{text}");
}

#[test]
fn lets_no_other_crate_debug_whatever_the_filter_says() {
    let text = logged("trace,h2=trace,hyper=trace", LogFormat::Json, || {
        tracing::trace!(target: "h2::codec", authorization = "Bearer abc", "frame");
        tracing::debug!(target: "hyper", "header");
        tracing::info!(target: "reqwest", "body");
        tracing::warn!(target: "h2", "kept");
        tracing::trace!(target: "keyferry_broker", "ours");
    });
    assert!(!text.contains("abc") && !text.contains("header") && !text.contains("body"), "{text}");
    assert!(text.contains("kept") && text.contains("ours"), "{text}");
}

#[test]
fn says_how_to_write_a_filter() {
    let error = subscriber(&settings("info,=,[", LogFormat::Json), io::sink, None).unwrap_err();
    assert!(error.to_string().contains("info,keyferry_broker::providers=debug"), "{error}");
}
