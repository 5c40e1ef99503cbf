use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const IMAGE: &str = "sha256:74cc54e27dc41bb10dc4b2226072d469509f2f22f1a3ce74f4a59661a1d44602";

/// What Docker 20.10 answers, shortened.
const CONTAINER: &str = r#"{"Id":"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef","Created":"2026-01-01T09:12:55.181137468Z","Path":"/web","Args":[],"State":{"Status":"running","Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":4711,"ExitCode":0,"Error":"","StartedAt":"2026-01-01T09:12:55.6Z","FinishedAt":"0001-01-01T00:00:00Z"},"Image":"sha256:74cc54e27dc41bb10dc4b2226072d469509f2f22f1a3ce74f4a59661a1d44602","Name":"/web-1","RestartCount":0,"Driver":"overlay2","Platform":"linux","HostConfig":{"NetworkMode":"default"},"Config":{"Hostname":"0123456789ab","Env":["TEAM=forged"],"Cmd":["/web"],"Image":"registry.example/web:latest","Labels":{"team":"payments","com.example.tier":"a:b","other":"secret"}},"NetworkSettings":{}}"#;
const IMAGE_ANSWER: &str = r#"{"Id":"sha256:74cc54e27dc41bb10dc4b2226072d469509f2f22f1a3ce74f4a59661a1d44602","RepoTags":["registry.example/web:latest"],"RepoDigests":["registry.example/web@sha256:8d3c2f0f5c3f6dd0a7f1b2f7a2f3c1b0a9e8d7c6b5a4938271605f4e3d2c1b0a"],"Os":"linux"}"#;

/// A runtime that answers by path, and remembers what it was asked.
struct Fake {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await?;
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await?);
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let answer = answer(&path);
                heard.lock().unwrap().push(path);
                let _ = stream.write_all(&answer).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
            #[expect(unreachable_code, reason = "names the type of errors")]
            io::Result::Ok(())
        });
        Self { directory, asked }
    }

    fn attestor(&self) -> ContainerAttestor {
        let labels = vec!["team".to_owned(), "com.example.tier".to_owned(), "absent".to_owned()];
        let runtime = RuntimeConfig { socket: self.directory.path().join("docker.sock"), labels };
        ContainerAttestor::new(&ContainerConfig { docker: Some(runtime.clone()), podman: Some(runtime) })
    }

    async fn describe(&self, runtime: Runtime) -> Findings {
        let container = Container { runtime, id: ID.to_owned(), rootless: None };
        let mut findings = Findings::default();
        self.attestor().describe(&container, &mut findings).await;
        findings
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

fn not_found() -> Vec<u8> {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
}

fn texts(findings: &Findings) -> Vec<String> {
    findings.selectors.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_container_is_described_by_its_runtime() {
    let fake = Fake::serve(|path| match path {
        path if path == format!("/containers/{ID}/json") => ok(CONTAINER),
        path if path == format!("/images/{IMAGE}/json") => ok(IMAGE_ANSWER),
        _ => not_found(),
    });
    for (runtime, key, name) in [
        (Runtime::Docker, "docker", "docker"),
        (Runtime::Podman, "podman", "podman"),
        (Runtime::Kubernetes, "docker", "kubernetes"),
    ] {
        let findings = fake.describe(runtime).await;
        assert_eq!(
            texts(&findings),
            [
                format!("container.runtime:{name}"),
                format!("container.id:{ID}"),
                format!("{key}.image_id:{IMAGE}"),
                format!(
                    "{key}.image_digest:registry.example/web@sha256:8d3c2f0f5c3f6dd0a7f1b2f7a2f3c1b0a9e8d7c6b5a4938271605f4e3d2c1b0a"
                ),
                format!("{key}.name:web-1"),
                format!("{key}.label:team:payments"),
                format!("{key}.label:com.example.tier:a:b"),
            ]
        );
        assert_eq!(findings.failures, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_image_that_is_gone_leaves_the_rest() {
    let fake = Fake::serve(|path| if path.starts_with("/containers/") { ok(CONTAINER) } else { not_found() });
    let findings = fake.describe(Runtime::Docker).await;
    assert!(texts(&findings).contains(&format!("docker.image_id:{IMAGE}")));
    assert!(findings.failures[0].contains("docker.image_digest"), "{:?}", findings.failures);
}

#[tokio::test]
async fn nothing_is_believed_of_an_answer_that_does_not_fit() {
    let other = "f".repeat(64);
    let chunk = "x".repeat(2 << 20);
    let cases = [
        (not_found(), "container.unknown"),
        (ok(&CONTAINER.replace(ID, &other)), "container.runtime-answer"),
        (ok(&CONTAINER.replace("\"Running\":true", "\"Running\":false")), "container.runtime-answer"),
        (ok(&CONTAINER.replace(IMAGE, "registry.example/web:latest")), "container.runtime-answer"),
        (ok("[]"), "container.runtime-answer"),
        (ok(&format!("{{\"Id\":\"{chunk}\"}}")), "container.runtime-answer"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(), "container.runtime-answer"),
        (b"junk\r\n\r\n".to_vec(), "container.runtime-unreachable"),
        (
            format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).into(),
            "container.runtime-unreachable",
        ),
    ];
    for (answer, code) in cases {
        let fake = Fake::serve(move |_| answer.clone());
        let findings = fake.describe(Runtime::Docker).await;
        assert_eq!(texts(&findings).len(), 2, "only what the control group says");
        assert!(findings.failures[0].contains(code), "{code}: {:?}", findings.failures);
    }
    let nobody = ContainerAttestor::new(&ContainerConfig {
        docker: Some(RuntimeConfig { socket: "/nonexistent/docker.sock".into(), labels: Vec::new() }),
        podman: None,
    });
    let container = Container { runtime: Runtime::Docker, id: ID.to_owned(), rootless: None };
    let mut findings = Findings::default();
    nobody.describe(&container, &mut findings).await;
    assert!(findings.failures[0].contains("container.runtime-unreachable"));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_not_waited_for() {
    let fake = Fake::serve(|_| Vec::new());
    let findings = fake.describe(Runtime::Docker).await;
    assert!(findings.failures[0].contains("container.runtime-slow"), "{:?}", findings.failures);
}

#[tokio::test]
async fn nobody_is_asked_about_a_rootless_container() {
    let fake = Fake::serve(|_| ok(CONTAINER));
    let container = Container { runtime: Runtime::Docker, id: ID.to_owned(), rootless: Some(1000) };
    let mut findings = Findings::default();
    fake.attestor().describe(&container, &mut findings).await;
    assert_eq!(texts(&findings), ["container.rootless_uid:1000"]);
    assert!(fake.asked.lock().unwrap().is_empty());
}

#[test]
fn label_keys_are_bounded() {
    let parse = |labels: &str| {
        toml::from_str::<ContainerConfig>(&format!("docker = {{ socket = '/s', labels = {labels} }}"))
    };
    assert!(parse("['a', 'com.example/b']").is_ok());
    for bad in ["['a:b']", "['']", "['a b']", &format!("[{}]", "'a',".repeat(33))] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

/// A process in a control group of its own, where this machine lets us make one.
struct Grouped {
    child: std::process::Child,
    groups: Vec<std::path::PathBuf>,
}

impl Grouped {
    /// `None` without root or a control group file system that can be written to.
    fn start(path: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];
        let root = roots.into_iter().find(|root| std::path::Path::new(root).join("cgroup.procs").exists())?;
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let mut groups = Vec::new();
        let mut group = std::path::PathBuf::from(root);
        for name in path.split('/') {
            group.push(name);
            if std::fs::create_dir(&group).is_ok() {
                groups.push(group.clone());
            }
        }
        let grouped = std::fs::write(group.join("cgroup.procs"), child.id().to_string()).is_ok();
        if !grouped {
            let _ = child.kill();
        }
        let found = Self { child, groups };
        grouped.then_some(found)
    }

    fn leave(&self) {
        let root = self.groups.first().and_then(|group| group.parent()).unwrap();
        std::fs::write(root.join("cgroup.procs"), self.child.id().to_string()).unwrap();
    }

    fn process(&self) -> crate::process::Process {
        crate::process::Process::open(self.child.id() as i32, crate::process::Evidence::Pidfd).unwrap()
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for group in self.groups.iter().rev() {
            // The kernel takes a moment to let go of the dead.
            let _ = (0..1000).find(|_| {
                std::thread::yield_now();
                std::fs::remove_dir(group).is_ok()
            });
        }
    }
}

fn attestation(fake: &Fake) -> super::super::Attestation {
    let attestors: Vec<Box<dyn Attestor>> =
        vec![Box::new(super::super::systemd::SystemdAttestor), Box::new(fake.attestor())];
    super::super::Attestation::new(attestors, 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_a_real_control_group_is_recognised() {
    let fake =
        Fake::serve(|path| if path.starts_with("/containers/") { ok(CONTAINER) } else { ok(IMAGE_ANSWER) });
    let Some(grouped) = Grouped::start(&format!("bonafide-test.slice/docker-{ID}.scope/init.scope")) else {
        eprintln!("skipped: control groups can't be made here");
        return;
    };
    let attested = attestation(&fake).attest_other(&grouped.process()).await.unwrap();
    let found = |selector: &str| attested.selectors.contains(&selector.parse().unwrap());
    assert!(found(&format!("systemd.id:docker-{ID}.scope")), "{attested:?}");
    assert!(
        found(&format!("container.id:{ID}")) && found(&format!("docker.image_id:{IMAGE}")),
        "{attested:?}"
    );
}

/// What the runtime says is about a container that the process has left meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_moved_while_its_runtime_answers_gets_nothing() {
    let Some(grouped) = Grouped::start(&format!("bonafide-moved.slice/docker-{ID}.scope")) else {
        eprintln!("skipped: control groups can't be made here");
        return;
    };
    let grouped = Arc::new(grouped);
    let moved = Arc::clone(&grouped);
    let fake = Fake::serve(move |path| {
        moved.leave();
        if path.starts_with("/containers/") { ok(CONTAINER) } else { ok(IMAGE_ANSWER) }
    });
    let attested = attestation(&fake).attest_other(&grouped.process()).await.unwrap();
    assert!(
        !attested.selectors.iter().any(|selector| selector.key().starts_with("container.")),
        "{attested:?}"
    );
    assert!(!attested.selectors.iter().any(|selector| selector.key().starts_with("docker.")), "{attested:?}");
    assert!(attested.failures.iter().any(|failure| failure.contains("cgroup.moved")), "{attested:?}");
}
