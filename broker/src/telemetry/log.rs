//! Where log lines and spans go, and which ones.

use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{EnvFilter, Registry};

use super::otlp::Exporter;
use super::{Error, LogFormat, Settings};

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

pub(super) fn subscriber<W>(settings: &Settings, writer: W, exporter: Option<&Exporter>) -> Result<Dispatch, Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let admitted = || Ok::<_, Error>(wanted(settings)?.and(filter_fn(harmless)));
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let mut layers: Vec<AnyLayer> = vec![match settings.log_format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).with_filter(admitted()?).boxed(),
        LogFormat::Text => lines.with_filter(admitted()?).boxed(),
    }];
    if let Some(exporter) = exporter {
        layers.push(exporter.span_layer().with_filter(filter_fn(traced)).boxed());
        layers.push(exporter.log_layer().with_filter(admitted()?).boxed());
    }
    Ok(Dispatch::new(Registry::default().with(layers)))
}

fn wanted(settings: &Settings) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(&settings.log_filter)
        .map_err(|source| Error::Filter { filter: settings.log_filter.clone(), source })
}

/// Our own types keep secrets out of our log lines. Other crates know no such types, and print headers and bodies when
/// they debug, so of those only warnings get through, whatever the filter asks for.
fn harmless(metadata: &Metadata<'_>) -> bool {
    ours(metadata) || *metadata.level() <= Level::WARN
}

fn traced(metadata: &Metadata<'_>) -> bool {
    ours(metadata) && *metadata.level() <= Level::INFO
}

fn ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("keyferry")
}

#[cfg(test)]
#[path = "tests/log.rs"]
mod tests;
