//! Clients of the Workload API that are not ours, at our own Unix listener.

use tokio::process::Command;

use crate::fake_agent::FakeAgent;

/// gRPC C-core sends the socket's path as `:authority`; so do Java and Swift.
const PYTHON: &str = r#"
import sys, grpc
channel = grpc.insecure_channel("unix:" + sys.argv[1])
raw = lambda data: data
header = (("workload.spiffe.io", "true"),)
stream = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID", raw, raw)
once = channel.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID", raw, raw)
assert b"spiffe://example.org/web" in next(stream(b"", metadata=header, timeout=10))
for count in range(200):
    churn = header + (("x-count-%d" % (count % 40), "v" * (count % 90)),)
    assert b"spiffe://example.org/web" in once(b"\n\x03api", metadata=churn, timeout=10)
print("fine")
"#;

#[tokio::test]
async fn pythons_grpc_gets_in_with_its_default_settings() {
    let installed = Command::new("python3").args(["-c", "import grpc"]).output().await;
    if !installed.is_ok_and(|output| output.status.success()) {
        return; // grpcio is not on this machine
    }
    let agent = FakeAgent::start();
    let output = Command::new("python3").args(["-c", PYTHON]).arg(agent.path()).output().await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "fine\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(agent.jwt_requests(), 200);
}
