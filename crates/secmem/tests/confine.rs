//! What a confined process can't do any more: this program once more, because there is no way back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use bonafide_secmem::Confinement;

fn denied<T: Debug>(what: io::Result<T>) {
    assert_eq!(what.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

/// A call by its number of the x32 ABI. A kernel that has no such calls says so, with another error.
#[cfg(target_arch = "x86_64")]
fn x32(call: libc::c_long, arguments: [libc::c_long; 3]) -> io::Result<libc::c_long> {
    let [first, second, third] = arguments;
    // SAFETY: the numbers that are given are no addresses; at worst a socket or a file is open.
    match unsafe { libc::syscall(call | 0x4000_0000, first, second, third) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done),
    }
}

#[test]
#[ignore = "what the other test starts"]
fn a_signer() {
    let missing = Confinement::default().enter();
    assert!(missing.iter().all(|missing| missing.name() != "seccomp"), "{missing:?}");
    denied(TcpStream::connect("127.0.0.1:1"));
    denied(TcpListener::bind("127.0.0.1:0"));
    denied(UdpSocket::bind("127.0.0.1:0"));
    denied(UnixListener::bind("/tmp/bonafide-no-such-socket"));
    denied(UnixDatagram::unbound());
    denied(Command::new("/bin/true").status());
    #[cfg(target_arch = "x86_64")]
    denied(x32(libc::SYS_socket, [1, 1, 0]));
    // Until all is open.
    File::open("/dev/null").unwrap();
    std::thread::spawn(|| ()).join().unwrap();
    assert_eq!(Confinement::default().settle(), []);
    denied(File::open("/dev/null"));
    denied(File::create("/tmp/bonafide-no-such-file"));
    denied(std::fs::remove_file("/tmp/bonafide-no-such-file"));
    denied(UnixDatagram::pair());
    denied(std::thread::Builder::new().spawn(|| ()));
    denied(Command::new("/bin/true").status());
}

#[test]
fn a_confined_process_reaches_nothing() {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_signer", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
