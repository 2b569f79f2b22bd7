//! `keyferry state`: what brokers keep, read where it lies. No record is changed, and no broker is asked.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Subcommand;
use serde_json::{Value, json};

use super::connection::block_on;
use super::{Complaint, ConfigFile, printable, say};
use crate::state::{
    Embedded, Entry, Fault, KINDS, Key, ListPage, OpenError, Prefix, Revision, Settings, Store, content, fault,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    view: Option<View>,
}

#[derive(Debug, Subcommand)]
enum View {
    /// The keys of records, with the revision that wrote each
    List {
        /// KIND, or KIND/SEGMENT/…; every record where it is left out
        #[arg(default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// One record
    Show { key: String },
    /// The records that cannot be read, and why
    Quarantined,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Complaint> {
    let settings = super::load(&args.config.path()?)?.state;
    let (text, json) = block_on(async {
        let store = open(&settings).await?;
        match &args.view {
            None => summary(&*store).await,
            Some(View::List { prefix }) => Ok(listed(&found(&*store, &Prefix::parse(prefix)?).await?)),
            Some(View::Show { key }) => shown(&*store, &Key::parse(key)?).await,
            Some(View::Quarantined) => {
                let mut records = found(&*store, &Prefix::all()).await?;
                records.retain(|record| record.fault.is_some());
                Ok(listed(&records))
            }
        }
    })?;
    say(&if args.json { json.to_string() } else { printable(&text) })?;
    Ok(ExitCode::SUCCESS)
}

/// The same, for people and for programs.
type Told = (String, Value);

struct Found {
    key: Key,
    revision: Revision,
    fault: Option<Fault>,
}

async fn open(settings: &Settings) -> Result<Arc<dyn Store>, Complaint> {
    match settings {
        Settings::Embedded(settings) => match Embedded::inspect(&settings.file) {
            Ok(store) => Ok(Arc::new(store)),
            Err(OpenError::InUse(file)) => Err(format!(
                "a broker has the state {} open; ask it with `keyferry status`, or stop it to look inside",
                file.display()
            )
            .into()),
            Err(OpenError::Io(file, error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("there is no state {} yet; a broker makes it when it first starts", file.display()).into())
            }
            Err(error) => Err(error.into()),
        },
        #[cfg(feature = "etcd")]
        Settings::Etcd(settings) => Ok(Arc::new(crate::state::Etcd::inspect(settings).await?)),
        #[cfg(not(feature = "etcd"))]
        Settings::Etcd(_) => Err(crate::app::StartError::EtcdLeftOut.into()),
    }
}

async fn summary(store: &dyn Store) -> Result<Told, Complaint> {
    let records = found(store, &Prefix::all()).await?;
    let mut counts = BTreeMap::<&str, usize>::new();
    for record in &records {
        *counts.entry(record.key.kind()).or_default() += 1;
    }
    let unreadable = records.iter().filter(|record| record.fault.is_some()).count();
    let status = store.status();
    let (epoch, oldest) = (status.epoch.map(|epoch| epoch.to_string()), status.oldest.map(Revision::get));
    let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let text = format!(
        "backend      {}\nepoch        {}\nrevision     {}\nwatchable    {}\nrecords      {}\nquarantined  {unreadable}",
        status.backend,
        epoch.as_deref().unwrap_or("none yet"),
        status.revision,
        oldest.map_or_else(|| "as long as etcd keeps it".to_owned(), |oldest| format!("from revision {oldest} on")),
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") },
    );
    let json = json!({
        "backend": status.backend,
        "epoch": epoch,
        "revision": status.revision.get(),
        "compacted_revision": oldest,
        "record_counts": counts,
        "quarantined_count": unreadable,
    });
    Ok((text, json))
}

fn listed(records: &[Found]) -> Told {
    let lines = records.iter().map(|Found { key, revision, fault }| match fault {
        Some(fault) => format!("{key}  {revision}  {fault}"),
        None => format!("{key}  {revision}"),
    });
    let json = records.iter().map(|Found { key, revision, fault }| {
        json!({
            "key": key.as_str(),
            "revision": revision.get(),
            "fault": fault.map(|fault| fault.to_string()),
        })
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    (if text.is_empty() { "none".to_owned() } else { text }, json.collect())
}

async fn shown(store: &dyn Store, key: &Key) -> Result<Told, Complaint> {
    let entry = store.get(key).await?.ok_or_else(|| format!("no record {key}; `keyferry state list` names all"))?;
    let fault = fault(&KINDS, key, &entry.value).map(|fault| fault.to_string());
    let content = content(&entry.value).ok();
    let json = json!({
        "key": key.as_str(),
        "revision": entry.revision.get(),
        "version": content.as_ref().map(|(version, _)| version),
        "fault": fault,
        // Where it has no content, all there is to see.
        "bytes": content.is_none().then(|| BASE64.encode(&entry.value)),
        "content": content.map(|(_, content)| content),
    });
    Ok((format!("{json:#}"), json))
}

async fn found(store: &dyn Store, prefix: &Prefix) -> Result<Vec<Found>, Complaint> {
    let (mut records, mut page) = (Vec::new(), ListPage { after: None, size: ListPage::MAX_SIZE });
    loop {
        let listing = store.list(prefix, page.clone()).await?;
        page.after = listing.entries.last().map(|entry| entry.key.clone());
        records.extend(listing.entries.into_iter().map(|Entry { key, value, revision }| {
            let fault = fault(&KINDS, &key, &value);
            Found { key, revision, fault }
        }));
        if !listing.more {
            return Ok(records);
        }
    }
}
