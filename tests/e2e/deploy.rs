//! What is under `deploy/`: the chart renders and is what Kubernetes accepts, the broker accepts what the chart gives it,
//! Prometheus takes the rules and the dashboard's queries, and the image's file system is all that the broker needs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyferry_tests::pki::{Ca, restrict};
use keyferry_tests::process::keyferry;
use serde_json::Value;

const EXAMPLES: [&str; 2] = ["azure", "google"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn tool(name: &str) -> PathBuf {
    root().join(".tools/bin").join(name)
}

fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) -> Output {
    let name = program.as_ref().display().to_string();
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    output.unwrap_or_else(|error| panic!("{name}: {error}; `make test` installs what the suites call"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn render(arguments: &[&str]) -> Output {
    let mut all = vec!["template", "keyferry", "deploy/helm/keyferry", "--namespace", "keyferry"];
    all.extend(arguments);
    run(tool("helm"), &all.iter().map(OsStr::new).collect::<Vec<_>>())
}

/// The objects of a YAML file, by the interpreter that comes with the validator.
fn objects(yaml: &Path) -> Vec<Value> {
    let script =
        "import json, sys, yaml; json.dump([o for o in yaml.safe_load_all(open(sys.argv[1])) if o], sys.stdout)";
    let output = run(root().join(".tools/pypi/charts/bin/python"), &["-c".as_ref(), script.as_ref(), yaml.as_os_str()]);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rendered(example: &str, directory: &Path) -> PathBuf {
    let values = format!("deploy/helm/examples/{example}.yaml");
    let output = render(&["--values", &values]);
    assert!(output.status.success(), "{example}: {}", said(&output));
    let path = directory.join(format!("{example}.yaml"));
    fs::write(&path, output.stdout).unwrap();
    path
}

#[test]
fn the_chart_renders_what_kubernetes_accepts() {
    let directory = tempfile::tempdir().unwrap();
    for example in EXAMPLES {
        let path = rendered(example, directory.path());
        // The oldest version that the chart admits, and a new one.
        for version in ["1.25", "1.33"] {
            let arguments = ["--strict".as_ref(), "--kubernetes-version".as_ref(), version.as_ref(), path.as_os_str()];
            let output = run(tool("kubernetes-validate"), &arguments);
            assert!(output.status.success(), "{example} for {version}: {}", said(&output));
        }
    }
}

#[test]
fn the_chart_refuses_what_could_not_start() {
    let azure = ["--values", "deploy/helm/examples/azure.yaml"];
    for (change, word) in [
        ("state.kind=embedded", "replicas: more than one need state.kind: etcd"),
        ("state.etcd.endpoints=null", "state.etcd.endpoints"),
        ("policies=null", "every call is denied"),
        ("tls.secret=", "tls.secret"),
        ("image.repository=", "image.repository"),
        ("replica=3", "replica"),
    ] {
        let output = render(&[&azure[..], &["--set", change]].concat());
        assert!(!output.status.success() && said(&output).contains(word), "{change}: {}", said(&output));
    }
}

/// The pod as the broker sees it: its variables and its files, under a directory in place of `/`.
#[test]
fn the_broker_accepts_what_the_chart_gives_it() {
    for example in EXAMPLES {
        let directory = tempfile::tempdir().unwrap();
        let objects = objects(&rendered(example, directory.path()));
        let one = |kind: &str, name: &str| {
            let found = objects.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
            found.unwrap_or_else(|| panic!("{example} has no {kind} {name}"))
        };
        let pod = &one("StatefulSet", "keyferry")["spec"]["template"]["spec"];
        let here = |path: &str| format!("{}{path}", directory.path().display());

        let ca = Ca::new("clients");
        for path in ["/etc/keyferry", "/etc/keyferry-policy", "/etc/keyferry-tls", "/etc/keyferry-clients"]
            .into_iter()
            .chain(["/etc/keyferry-etcd", "/var/run/secrets/tokens", "/var/lib/keyferry"])
        {
            fs::create_dir_all(here(path)).unwrap();
        }
        for (map, path) in [("keyferry", "/etc/keyferry"), ("keyferry-policy", "/etc/keyferry-policy")] {
            for (name, text) in one("ConfigMap", map)["data"].as_object().unwrap() {
                let text = text.as_str().unwrap().replace("\"/", &format!("\"{}/", directory.path().display()));
                fs::write(here(&format!("{path}/{name}")), text).unwrap();
            }
        }
        let server = ca.server("keyferry");
        for place in ["tls", "etcd"] {
            fs::write(here(&format!("/etc/keyferry-{place}/tls.crt")), &server.certificate).unwrap();
            fs::write(here(&format!("/etc/keyferry-{place}/tls.key")), &server.key).unwrap();
            fs::write(here(&format!("/etc/keyferry-{place}/ca.crt")), ca.pem()).unwrap();
            restrict(Path::new(&here(&format!("/etc/keyferry-{place}/tls.key"))));
        }
        fs::write(here("/etc/keyferry-clients/ca.crt"), ca.pem()).unwrap();
        fs::write(here("/var/run/secrets/tokens/azure"), "a projected token").unwrap();

        let container = &pod["containers"][0];
        let variables = container["env"].as_array().unwrap().iter().map(|variable| {
            let value = variable["value"].as_str().unwrap_or("keyferry-0");
            let value = if value.starts_with('/') { here(value) } else { value.to_owned() };
            (variable["name"].as_str().unwrap().to_owned(), value)
        });
        let arguments: Vec<_> = container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert_eq!(arguments, ["serve", "--config", "/etc/keyferry/keyferry.toml"]);
        let checked = Command::new(keyferry())
            .args(["check", "--config", &here("/etc/keyferry/keyferry.toml")])
            .env_clear()
            .envs(variables)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{example}: {}", said(&checked));

        // Each directory that the broker is told of is mounted.
        let mounts: BTreeSet<_> =
            container["volumeMounts"].as_array().unwrap().iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
        for variable in container["env"].as_array().unwrap() {
            if let Some(path) = variable["value"].as_str().filter(|value| value.starts_with('/')) {
                assert!(mounts.iter().any(|mount| path.starts_with(mount)), "{path} is on no volume of {mounts:?}");
            }
        }
    }
}

#[test]
fn prometheus_takes_the_rules_and_the_alerts_fire() {
    for arguments in
        [["check", "rules", "deploy/prometheus/rules.yaml"], ["test", "rules", "deploy/prometheus/rules.test.yaml"]]
    {
        let output = run("promtool", &arguments.map(OsStr::new));
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn prometheus_takes_the_dashboards_queries() {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(root().join("deploy/grafana/keyferry.json")).unwrap()).unwrap();
    let queries: Vec<_> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m"))
        .collect();
    assert!(queries.len() > 20, "{queries:?}");
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(n, query)| serde_json::json!({ "record": format!("query:{n}"), "expr": query }))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queries.json");
    // JSON is YAML.
    fs::write(&path, serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] }).to_string()).unwrap();
    let output = run("promtool", &["check".as_ref(), "rules".as_ref(), path.as_os_str()]);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_collectors_pipelines_use_what_is_declared_and_all_of_it() {
    let collector = objects(&root().join("deploy/otel/collector.yaml")).remove(0);
    let names = |section: &Value| -> BTreeSet<String> { section.as_object().unwrap().keys().cloned().collect() };
    let listed = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect()
    };
    for kind in ["receivers", "processors", "exporters"] {
        let pipelines = collector["service"]["pipelines"].as_object().unwrap();
        let used: BTreeSet<_> = pipelines.values().flat_map(|pipeline| listed(&pipeline[kind])).collect();
        assert_eq!(used, names(&collector[kind]), "{kind}");
        assert!(["traces", "metrics", "logs"].iter().all(|signal| pipelines.contains_key(*signal)), "{pipelines:?}");
    }
    assert_eq!(names(&collector["extensions"]), listed(&collector["service"]["extensions"]).into_iter().collect());
}

/// As an engine would run it with `--read-only`: nothing of the machine is there, and the user may write nothing but the
/// data directory.
#[test]
fn the_images_file_system_is_all_that_the_broker_needs() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let made = run("deploy/container/rootfs", &[keyferry().as_os_str(), image.as_os_str()]);
    assert!(made.status.success(), "{}", said(&made));
    let again = run("deploy/container/rootfs", &[keyferry().as_os_str(), image.as_os_str()]);
    assert!(!again.status.success() && said(&again).contains("is there already"), "{}", said(&again));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();

    let inside = |arguments: &[&str]| {
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("chroot");
            command.arg("--userspec=65532:65532");
            command
        } else {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "chroot"]);
            command
        };
        command.arg(&image).arg("/usr/bin/keyferry").args(arguments).stdin(Stdio::null());
        command
    };
    let version = inside(&["--version"]).output().unwrap();
    assert!(version.status.success() && said(&version).contains("keyferry"), "{}", said(&version));
    let refused = inside(&["dev", "--dir", "/etc/keyferry/dev", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(!refused.status.success(), "it may write outside its data: {}", said(&refused));

    let ports = ["--listen", "127.0.0.1:0", "--web", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut serving = inside(&[&["dev", "--dir", "/var/lib/keyferry/dev"], &ports[..]].concat());
    let broker = keyferry_tests::process::Process::start(&mut serving);
    let (ended, log) = broker.terminate();
    assert!(ended, "{log:#?}");
}
