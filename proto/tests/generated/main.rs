//! The checked-in code is what the contract generates.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test may stop at the first thing that is not as it must be"
)]

mod bundle;
mod redaction;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor};

const REGENERATE: &str = "KEYFERRY_REGENERATE=1 cargo test -p keyferry-proto --test generated";

#[test]
fn checked_in_code_is_what_the_contract_generates() -> Result<(), Box<dyn Error>> {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let regenerate = env::var_os("KEYFERRY_REGENERATE").is_some();

    for (name, fresh) in generate(&scratch)? {
        let path = checked_in.join(name);
        if regenerate {
            fs::write(&path, &fresh)?;
        }
        // Not assert_eq: its message would print both files.
        assert!(
            fs::read(&path).is_ok_and(|present| present == fresh),
            "src/gen/{name} differs from what the .proto files generate; run `{REGENERATE}` and commit the result"
        );
    }
    Ok(())
}

/// One file for each package.
const CODE: [&str; 6] = [
    "keyferry.v1.rs",
    "envoy.config.core.v3.rs",
    "envoy.extensions.transport_sockets.tls.v3.rs",
    "envoy.service.discovery.v3.rs",
    "envoy.service.secret.v3.rs",
    "google.rpc.rs",
];
const ENVOY: &str = "envoy/service/secret/v3/sds.proto";
/// Travels within an `Any`, so nothing imports it.
const ENVOY_SECRET: &str = "envoy/extensions/transport_sockets/tls/v3/secret.proto";

type Generated = Vec<(&'static str, Vec<u8>)>;

/// The generated files by name.
fn generate(scratch: &Path) -> Result<Generated, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([env!("CARGO_MANIFEST_DIR")])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(contract_files()?)?;
    compiler.open_files([ENVOY, ENVOY_SECRET])?;

    fs::create_dir_all(scratch)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.protobuf.Any", "crate::Any")
        .skip_debug(messages_with_redacted_fields(&compiler.descriptor_pool()))
        .out_dir(scratch)
        .compile_fds(compiler.file_descriptor_set())?;
    let mut generated = Vec::new();
    for name in CODE {
        generated.push((name, fs::read(scratch.join(name))?));
    }

    // Reflection has no use for comments, and prost's own descriptor types would drop debug_redact.
    let descriptors = compiler.include_source_info(false).encode_file_descriptor_set();
    generated.push(("keyferry.v1.bin", descriptors));
    Ok(generated)
}

fn contract_files() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let folder = Path::new("keyferry/v1");
    let mut files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))?
        .map(|entry| Ok(folder.join(entry?.file_name())))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    Ok(files)
}

fn messages_with_redacted_fields(pool: &DescriptorPool) -> Vec<String> {
    pool.all_messages()
        .filter(|message| message.fields().any(|field| is_redacted(&field)))
        .map(|message| format!(".{}", message.full_name()))
        .collect()
}

fn is_redacted(field: &FieldDescriptor) -> bool {
    let options = field.options();
    options.get_field_by_name("debug_redact").expect("descriptor.proto has the option debug_redact").as_bool()
        == Some(true)
}
