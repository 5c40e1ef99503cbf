use std::process::{Child, Command, Stdio};

use super::*;

/// Lives until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("/bin/sleep");
        Self(command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn own_process_is_readable() {
    let process = Process::open(std::process::id() as i32, Evidence::Pidfd).unwrap();
    let image = process.image().unwrap();
    assert_eq!(image, process.image().unwrap());
    assert!(image.sees_layout());
    let credentials = process.credentials().unwrap();
    assert_eq!(credentials.uid, rustix::process::geteuid().as_raw());
    assert_eq!(
        process.exe_path().unwrap(),
        std::env::current_exe().unwrap().into_os_string().into_encoded_bytes()
    );
}

#[test]
fn a_dead_process_answers_nothing() {
    let child = Sleeper::start();
    let pid = child.pid();
    let process = Process::open(pid, Evidence::Pidfd).unwrap();
    process.image().unwrap();
    drop(child);
    assert!(matches!(process.check_alive(), Err(ProcessError::Gone)));
    assert!(matches!(process.image(), Err(ProcessError::Gone)));
    assert!(matches!(process.credentials(), Err(ProcessError::Gone)));
    assert!(matches!(process.exe_path(), Err(ProcessError::Gone)));
    assert!(matches!(Process::pin(pid, process.pidfd().clone(), Evidence::Pidfd), Err(ProcessError::Gone)));
}

/// Process numbers of a namespace of its own run out soon: `ns_last_pid` makes the kernel hand out one
/// number again and again. Whatever was pinned under it must never speak of a successor.
#[test]
fn a_reused_number_is_another_process() {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    let Ok(before) = std::fs::read_to_string(LAST) else { return };
    let before: i32 = before.trim().parse().unwrap();
    let wanted = before + 5000;
    let mut reused = 0;
    let mut last: Option<(i32, Process, Image)> = None;
    for _ in 0..400 {
        if std::fs::write(LAST, wanted.to_string()).is_err() {
            // Not permitted here: nothing to show.
            return;
        }
        let child = Sleeper::start();
        let pid = child.pid();
        let process = Process::open(pid, Evidence::Pidfd).unwrap();
        let image = process.image().unwrap();
        if let Some((old_pid, old, old_image)) = last.take() {
            assert!(matches!(old.image(), Err(ProcessError::Gone)));
            assert!(matches!(old.credentials(), Err(ProcessError::Gone)));
            assert!(matches!(old.open_exe(), Err(ProcessError::Gone)));
            if old_pid == pid {
                reused += 1;
                assert!(matches!(
                    Process::pin(pid, old.pidfd().clone(), Evidence::Pidfd),
                    Err(ProcessError::Gone)
                ));
                assert_ne!(old_image, image);
            }
        }
        drop(child);
        last = Some((pid, process, image));
    }
    assert!(reused > 0, "no process number came back");
}

#[test]
fn exec_of_the_same_file_is_another_image() {
    // The shell reports when it may be looked at, and replaces itself when told.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "echo ready; read line; exec /bin/sh -c 'echo again; read line'"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let process = Process::open(child.id() as i32, Evidence::Pidfd).unwrap();
    let mut output = io::BufReader::new(child.stdout.take().unwrap());
    let mut input = child.stdin.take().unwrap();
    let mut line = String::new();
    io::BufRead::read_line(&mut output, &mut line).unwrap();
    let first = process.image().unwrap();
    io::Write::write_all(&mut input, b"\n").unwrap();
    line.clear();
    io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert_eq!(line, "again\n");
    let second = process.image().unwrap();
    assert_eq!(first.start_time, second.start_time);
    assert_eq!((first.exe_device, first.exe_inode), (second.exe_device, second.exe_inode));
    assert_ne!(first, second);
    child.kill().unwrap();
    child.wait().unwrap();
}
