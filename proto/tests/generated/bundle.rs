//! The contract in one file, for importers that take no more: Azure API Management.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use protox::prost_reflect::DescriptorPool;

use super::{REGENERATE, contract_files};

#[test]
fn the_bundled_contract_is_the_contract() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../deploy/apim/keyferry.proto");
    let fresh = bundle(root)?;
    if env::var_os("KEYFERRY_REGENERATE").is_some() {
        fs::write(&path, &fresh)?;
    }
    // Not assert_eq: its message would print both files.
    assert!(
        fs::read_to_string(&path).is_ok_and(|present| present == fresh),
        "deploy/apim/keyferry.proto differs from the contract; run `{REGENERATE}` and commit the result"
    );

    let mut whole = protox::Compiler::new([root])?;
    whole.open_files(contract_files()?)?;
    let mut bundled = protox::Compiler::new([root.join("../deploy/apim")])?;
    bundled.open_file("keyferry.proto")?;
    let (whole, bundled) = (everything(&whole.descriptor_pool()), everything(&bundled.descriptor_pool()));
    assert!(whole.len() > 400, "{}", whole.len());
    assert_eq!(whole, bundled);
    Ok(())
}

/// The files one after the other, under one head.
fn bundle(root: &Path) -> Result<String, Box<dyn Error>> {
    let (mut imports, mut bodies) = (BTreeSet::new(), String::new());
    for file in contract_files()? {
        let text = fs::read_to_string(root.join(file))?;
        let is_head = |line: &&str| {
            line.is_empty() || ["syntax ", "package ", "import "].iter().any(|word| line.starts_with(word))
        };
        imports.extend(
            text.lines().filter(|line| line.starts_with("import \"google/")).map(str::to_owned).collect::<Vec<_>>(),
        );
        let body: Vec<_> = text.lines().skip_while(is_head).collect();
        bodies = format!("{bodies}\n{}\n", body.join("\n").trim_end());
    }
    let head = "// Generated from proto/keyferry/v1; do not edit.\n\nsyntax = \"proto3\";\n\npackage keyferry.v1;\n";
    let imports: Vec<_> = imports.into_iter().collect();
    Ok(format!("{head}\n{}\n{bodies}", imports.join("\n")))
}

/// Each method, field and value of the contract's own package, as it is on the wire.
fn everything(pool: &DescriptorPool) -> BTreeSet<String> {
    let ours = |name: &str| name.starts_with("keyferry.v1.");
    let methods = pool.services().filter(|service| ours(service.full_name())).flat_map(|service| {
        let line = |method: protox::prost_reflect::MethodDescriptor| format!("{:?}", method.method_descriptor_proto());
        service.methods().map(line).collect::<Vec<_>>()
    });
    let fields = pool.all_messages().filter(|message| ours(message.full_name())).flat_map(|message| {
        let name = message.full_name().to_owned();
        message.fields().map(move |field| format!("{name}: {:?}", field.field_descriptor_proto())).collect::<Vec<_>>()
    });
    let values = pool.all_enums().filter(|it| ours(it.full_name())).flat_map(|it| {
        it.values().map(|value| format!("{} = {}", value.full_name(), value.number())).collect::<Vec<_>>()
    });
    methods.chain(fields).chain(values).collect()
}
