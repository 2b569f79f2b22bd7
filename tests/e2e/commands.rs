//! The verbs that read and change secrets, and what all verbs share: names, exit codes, terminals, profiles.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use keyferry_tests::broker::TestBroker;
use keyferry_tests::command::{Caller, Ran, assert_documented};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

struct Stage {
    _runtime: Runtime,
    broker: TestBroker,
    client: Caller,
    operator: Caller,
}

fn stage() -> Stage {
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(TestBroker::start());
    let client = Caller::of(&broker, "client", &broker.client);
    let operator = Caller::of(&broker, "operator", &broker.operator);
    Stage { _runtime: runtime, broker, client, operator }
}

#[test]
fn what_is_put_is_what_is_got_byte_for_byte() {
    let stage = stage();
    let payload: &[u8] = b"\x00\xffnot text\r\n\n";
    let put = stage.operator.run_with_input(&["put", "local/blob", "--create", "--label", "env=dev"], payload);
    assert_eq!(put.done(), "added stores/local/secrets/blob/versions/1\n");
    let got = stage.client.run(&["get", "local/blob"]);
    assert_eq!((got.code, got.stdout.as_slice(), got.stderr.as_str()), (0, payload, ""));

    let file = stage.broker.path().join("value");
    fs::write(&file, "second").unwrap();
    let file = file.to_str().unwrap();
    let dry = stage.operator.run(&["put", "local/blob", "--file", file, "--dry-run", "--json"]).json();
    assert_eq!(dry[0]["dry_run"], true);
    stage.operator.run(&["put", "local/blob", "--file", file]).done();
    assert_eq!(stage.client.run(&["get", "stores/local/secrets/blob"]).done(), "second");
    assert_eq!(stage.client.run(&["get", "local/blob@1"]).stdout, payload, "the dry run added nothing");

    let json = &stage.client.run(&["get", "local/blob", "--json"]).json()[0];
    assert_eq!((&json["payload"], &json["name"]), (&json!("second"), &json!("stores/local/secrets/blob/versions/2")));
    let json = &stage.client.run(&["get", "local/blob@1", "--json", "--max-age", "0s"]).json()[0];
    assert_eq!(
        (&json["payload"], &json["payload_base64"], &json["source"]),
        (&Value::Null, &json!("AP9ub3QgdGV4dA0KCg=="), &json!("provider"))
    );
    let put = stage.operator.run_with_input(&["put", "local/blob"], b"word\n");
    assert!(put.code == 0 && put.stderr.contains("ends with a newline"), "{put:?}");
    stage.operator.run_with_input(&["put", "local/blob"], b"").failed(2, "the value is empty");
    stage.operator.run(&["put", "local/blob", "--file", "/absent"]).failed(2, "cannot read /absent");
}

#[test]
fn lists_and_versions_are_tables_for_people_and_lines_for_programs() {
    let stage = stage();
    for (secret, env) in [("a-1", "dev"), ("b-1", "prod")] {
        let label = format!("env={env}");
        let name = format!("local/{secret}");
        stage.operator.run_with_input(&["put", &name, "--create", "--label", &label], b"x").done();
    }
    let table = stage.client.run(&["list", "local"]).done();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with("secret ") && lines.len() == 3, "{table}");
    assert!(
        lines[1].starts_with("stores/local/secrets/a-1  ")
            && lines[1].contains("s ago  ")
            && lines[1].ends_with(" env=dev"),
        "{table}"
    );
    let names = |ran: Ran| ran.json().iter().map(|line| line["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(stage.client.run(&["list", "local", "--prefix", "b", "--json"])), ["stores/local/secrets/b-1"]);
    assert_eq!(
        names(stage.client.run(&["list", "local", "--label", "env=dev", "--json"])),
        ["stores/local/secrets/a-1"]
    );
    assert_eq!(stage.client.run(&["list", "local", "--prefix", "zzz"]).done(), "none\n");

    stage.operator.run_with_input(&["put", "local/a-1"], b"y").done();
    let done = stage.operator.run(&["disable", "local/a-1@1", "--dry-run"]).done();
    assert_eq!(done, "stores/local/secrets/a-1/versions/1 would be disabled\n");
    stage.operator.run(&["disable", "local/a-1@1"]).done();
    let versions = stage.client.run(&["versions", "local/a-1", "--json"]).json();
    let mut told: Vec<_> = versions.iter().map(|v| (v["state"].as_str().unwrap(), v["latest"] == true)).collect();
    told.sort_unstable();
    assert_eq!(told, [("disabled", false), ("enabled", true)]);
    stage.client.run(&["get", "local/a-1@1"]).failed(6, "(VERSION_DISABLED)");
    assert_eq!(stage.operator.run(&["enable", "local/a-1@1", "--json"]).json()[0]["state"], "enabled");
    assert_eq!(stage.client.run(&["get", "local/a-1@1"]).done(), "x");
}

#[test]
fn what_is_printed_as_json_is_what_the_guide_says() {
    let stage = stage();
    let operator = |arguments: &[&str]| stage.operator.run(&[arguments, &["--json"]].concat()).json().remove(0);
    let put = stage.operator.run_with_input(&["put", "local/db", "--create", "--json"], b"x").json().remove(0);
    assert_documented("`put`", &put);
    assert_documented("`get`", &operator(&["get", "local/db"]));
    assert_documented("`list`", &operator(&["list", "local"]));
    let versions = "`versions`, `enable`, `disable`";
    assert_documented(versions, &operator(&["versions", "local/db"]));
    assert_documented(versions, &operator(&["disable", "local/db@1"]));
    assert_documented("`whoami`", &operator(&["whoami"]));
}

#[test]
fn a_terminal_is_shown_a_secret_only_when_it_is_asked_to() {
    let stage = stage();
    stage.operator.run_with_input(&["put", "local/db", "--create"], b"hunter2").done();
    let (code, shown) = stage.client.run_on_terminal(&["get", "local/db"], "");
    assert!(code == 0 && shown.contains("/versions/1") && shown.contains("7 bytes"), "{shown}");
    assert!(shown.contains("--reveal") && !shown.contains("hunter2"), "{shown}");
    let (_, shown) = stage.client.run_on_terminal(&["get", "local/db", "--json"], "");
    assert!(shown.contains("\"payload\":null") && !shown.contains("hunter2"), "{shown}");
    let (code, shown) = stage.client.run_on_terminal(&["get", "local/db", "--reveal"], "");
    assert_eq!((code, shown.as_str()), (0, "hunter2\r\n"));

    let (code, shown) = stage.operator.run_on_terminal(&["put", "local/db"], "typed by hand\n");
    assert!(code == 0 && shown.contains("added ") && !shown.contains("typed"), "{shown}");
    assert_eq!(stage.client.run(&["get", "local/db"]).done(), "typed by hand");
    let (code, shown) = stage.operator.run_on_terminal(&["put", "local/db"], "\x04");
    assert!(code == 2 && shown.contains("the value is empty"), "{shown}");
    stage.operator.run_with_input(&["put", "local/db"], b"\x1b]0;owned\x07").done();
    let (_, shown) = stage.client.run_on_terminal(&["get", "local/db", "--reveal"], "");
    assert!(!shown.contains('\x1b'), "the terminal was told what to do: {shown:?}");
}

#[test]
fn an_answer_that_is_lost_is_a_failure_and_a_reader_who_has_had_enough_is_none() {
    let stage = stage();
    stage.operator.run_with_input(&["put", "local/db", "--create"], b"hunter2").done();
    for verb in [
        ["get", "local/db"].as_slice(),
        &["get", "local/db", "--json"],
        &["list", "local"],
        &["list", "local", "--json"],
        &["whoami"],
        &["watch", "local/*", "--json"],
        &["completions", "bash"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ran: Ran = stage.operator.command(verb).stdout(full).output().unwrap().into();
        ran.failed(1, "the answer is lost");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran: Ran = stage.operator.command(verb).stdout(writer).output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{verb:?}");
    }
}

#[test]
fn each_kind_of_failure_has_its_exit_code_its_reason_and_what_to_do() {
    let stage = stage();
    let client = &stage.client;
    client.run(&["get"]).failed(2, "required");
    client.run(&["get", "local/../x"]).failed(2, "(INVALID_NAME)");
    client.run_with_input(&["put", "local/db"], b"x").failed(3, "(ACCESS_DENIED); `keyferry explain`");
    client.run(&["get", "local/none"]).failed(5, "(SECRET_NOT_FOUND); see that the name is right");
    client.run(&["list", "local", "--own-token-file", "/absent"]).failed(4, "/absent");
    client.run(&["get", "local/x", "--cert", "/absent", "--key", "/absent"]).failed(2, "cannot read /absent");
    client.run(&["get", "local/x", "--server", "https://127.0.0.1:1"]).failed(8, "nothing answers at 127.0.0.1:1");
    client.run(&["get", "local/x", "--server", "http://127.0.0.1:1"]).failed(2, "https://");
    let mut bare = client.command(&["whoami"]);
    let bare = bare.env_remove("KEYFERRY_SERVER").env_remove("KEYFERRY_CERT").env_remove("KEYFERRY_KEY");
    let ran: Ran = bare.output().unwrap().into();
    ran.failed(2, "no broker: give --server");

    let ran = client.run(&["get", "local/none", "--json"]);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(
        (ran.code, &error["error"]["reason"], &error["error"]["exit_code"]),
        (5, &json!("SECRET_NOT_FOUND"), &json!(5))
    );
}

#[test]
fn a_profile_says_who_and_where_and_what_is_said_besides_goes_before_it() {
    let stage = stage();
    stage.operator.run_with_input(&["put", "local/db", "--create"], b"hunter2").done();
    let profile = stage.broker.path().join(".keyferry-dev/client.toml");
    fs::create_dir_all(profile.parent().unwrap()).unwrap();
    let port = stage.broker.broker.grpc_address().port();
    let text = format!(
        "server = \"https://127.0.0.1:{port}\"\nca = \"ca.pem\"\ncert = \"client.pem\"\nkey = \"client.key\"\n"
    );
    fs::write(&profile, &text).unwrap();
    for file in ["ca.pem", "client.pem", "client.key"] {
        fs::copy(stage.broker.path().join(file), profile.with_file_name(file)).unwrap();
    }
    let run = |mode: u32, variables: &[(&str, &str)]| {
        fs::set_permissions(&profile, fs::Permissions::from_mode(mode)).unwrap();
        let mut command = std::process::Command::new(keyferry_tests::process::keyferry());
        command.args(["get", "local/db"]).current_dir(stage.broker.path()).envs(variables.iter().copied());
        Ran::from(command.output().unwrap())
    };
    assert_eq!(run(0o600, &[]).done(), "hunter2");
    let named = profile.to_str().unwrap();
    run(0o600, &[("KEYFERRY_PROFILE", named), ("KEYFERRY_SERVER", "https://127.0.0.1:1")]).failed(8, "127.0.0.1:1");
    // A profile that is named on the command line leaves the environment's credentials out of it; options go before it.
    let elsewhere = [("KEYFERRY_SERVER", "https://127.0.0.1:1"), ("KEYFERRY_TOKEN_FILE", "/absent")];
    let explicit = |more: &[&str]| {
        let mut command = std::process::Command::new(keyferry_tests::process::keyferry());
        command.args(["get", "local/db", "--profile", named]).args(more).envs(elsewhere);
        Ran::from(command.output().unwrap())
    };
    assert_eq!(explicit(&[]).done(), "hunter2");
    explicit(&["--server", "https://127.0.0.1:2"]).failed(8, "127.0.0.1:2");
    explicit(&["--own-token-file", "/missing"]).failed(4, "/missing");
    explicit(&["--key", "/missing"]).failed(2, "a key without its certificate");
    // Whoever can write here must not send this environment's credentials anywhere.
    run(0o620, &[]).failed(2, "no broker");
    run(0o600, &[("KEYFERRY_TOKEN_FILE", "/absent")]).failed(2, "no broker");
    run(0o600, &[("KEYFERRY_PROFILE", "/absent")]).failed(2, "profile /absent");
    fs::write(&profile, text.replace("\"ca.pem", "\"../ca.pem")).unwrap();
    run(0o600, &[]).failed(2, "name it with --profile");
}

#[test]
fn a_shell_takes_the_completions_and_each_verb_has_a_page_in_the_manual() {
    let keyferry = keyferry_tests::process::keyferry();
    let script = format!("source <({} completions bash) && complete -p keyferry", keyferry.display());
    let ran: Ran = std::process::Command::new("bash").args(["-c", &script]).output().unwrap().into();
    assert!(ran.done().contains("keyferry"));
    for (shell, told) in [("zsh", "#compdef keyferry"), ("fish", "complete -c keyferry")] {
        let ran: Ran = std::process::Command::new(keyferry).args(["completions", shell]).output().unwrap().into();
        assert!(ran.done().contains(told), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let ran: Ran = std::process::Command::new(keyferry).arg("man").arg(directory.path()).output().unwrap().into();
    ran.done();
    let page = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert!(page("keyferry.1").contains("5  there is no such thing"), "the manual has the exit codes");
    assert!(page("keyferry-leases-renew.1").contains("ttl"), "a page for verbs below verbs");
}
