//! A real Envoy with `ext_authz`: it holds its own SVID, demands one of its peers, and asks the agent about each request.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bonafide_sdk::{Authorizer, Endpoint, Options, Pick, X509Source, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::fixture::{TrustDomain, present};

const SHOP: &str = "spiffe://foreign.test/foreign/shop";
const PATIENCE: Duration = Duration::from_secs(60);

/// Ended when dropped.
struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Beside the interpreter that the tests are given.
fn program() -> PathBuf {
    let python = std::env::var_os("BONAFIDE_TEST_PYTHON").map(PathBuf::from).unwrap_or_default();
    python.with_file_name("envoy")
}

fn policy(actions: &str) -> String {
    format!(
        "kind: Policy
name: shop-window
rules:
- name: shoppers
  allow: {{who: {{id: {SHOP}}}, can: [{actions}], on: {{path: /v1/**, host: shop.example.org}}}}
"
    )
}

fn config(folder: &Path, socket: &Path, port: u16) -> String {
    let folder = folder.display();
    let socket = socket.display();
    format!(
        r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates:
            - certificate_chain: {{filename: {folder}/svid.pem}}
              private_key: {{filename: {folder}/svid_key.pem}}
            validation_context: {{trusted_ca: {{filename: {folder}/svid_bundle.pem}}}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: shop
          route_config:
            virtual_hosts:
            - name: shop
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, direct_response: {{status: 200, body: {{inline_string: "welcome"}}}}}}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              include_peer_certificate: true
              failure_mode_allow: false
              grpc_service: {{envoy_grpc: {{cluster_name: agent}}, timeout: 5s}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: agent
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: agent
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {socket}}}}}}}}}]}}]
"#
    )
}

/// Status and all of the answer, over a connection of its own.
async fn ask(source: &X509Source, port: u16, method: &str, path: &str) -> Option<(u16, String)> {
    let members = Authorizer::member_of(source.id().ok()?.trust_domain().clone());
    let (mut stream, _) = tls::connect(("127.0.0.1", port), source, members).await.ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: shop.example.org\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // Envoy ends the connection without an alert.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).ok()?;
    Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_the_agent_about_each_request() {
    if !present("a real Envoy", Command::new(program()).arg("--version")) {
        return;
    }
    let domain = TrustDomain::start();
    let selector = format!("unix.uid:{}", nix::unistd::getuid());
    domain.run(&["entry", "create", SHOP, "-s", &selector, "--x509-ttl", "1h", "--wait"]);
    let file = domain.path().join("policy.yaml");
    let apply = |actions: &str| {
        fs::write(&file, policy(actions)).unwrap();
        domain.run(&["apply", "-f", file.to_str().unwrap(), "--yes", "--wait"]);
    };
    apply("GET");

    let folder = domain.path().join("envoy");
    fs::create_dir(&folder).unwrap();
    domain.run(&["svid", "x509", "--spiffe-id", SHOP, "--write", folder.to_str().unwrap()]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let socket = PathBuf::from(domain.endpoint().strip_prefix("unix://").unwrap());
    let config_file = folder.join("envoy.yaml");
    fs::write(&config_file, config(&folder, &socket, port)).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    let envoy = Command::new(program())
        .arg("-c")
        .arg(&config_file)
        .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warn"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let _envoy = Envoy(envoy);

    let mut options = Options::default();
    options.endpoint = Some(Endpoint::unix(&socket));
    options.pick = Pick::Id(SHOP.parse().unwrap());
    let source = X509Source::connect_with(options).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, async {
        loop {
            // Until it listens.
            match ask(&source, port, "GET", "/v1/window?x=1").await {
                Some(answer) => break answer,
                None => tokio::task::yield_now().await,
            }
        }
    });
    let first = match first.await {
        Ok(first) => first,
        Err(_) => panic!("{}", fs::read_to_string(folder.join("log")).unwrap()),
    };
    assert_eq!(first.0, 200, "{}", first.1);
    assert!(first.1.ends_with("welcome"));

    let (status, answer) = ask(&source, port, "PUT", "/v1/window").await.unwrap();
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("x-bonafide-decision: ") && !answer.contains("no-rule"), "{answer}");
    // What Envoy passes on as it came must not be read in another way by whoever is behind it.
    assert_ne!(ask(&source, port, "GET", "/v1/%2e%2e/admin").await.unwrap().0, 200);

    apply("GET, PUT");
    assert_eq!(ask(&source, port, "PUT", "/v1/window").await.unwrap().0, 200);

    // What an operator sees of it.
    let decisions = domain.run(&["decisions", "--denied", "--caller", SHOP]);
    assert!(decisions.contains("policy.no-rule") && decisions.contains("/v1/window"), "{decisions}");
    let listed = domain.run(&["policy", "list"]);
    assert!(listed.contains("shop-window"), "{listed}");
    assert_eq!(domain.run(&["export", "policy"]), policy("GET, PUT"));
    domain.run(&["policy", "delete", "shop-window", "--wait"]);
    assert_eq!(ask(&source, port, "GET", "/v1/window").await.unwrap().0, 403);
}
