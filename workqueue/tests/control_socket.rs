// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket as a program opens it: its file, its callers, its end. What it says is
//! tested with the programs that ask it, in tools.rs.

mod common;
use common::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

fn path_for(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("workqueue-{test}-{}", std::process::id()))
}

fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).unwrap();
    reply
}

const SAMPLE: &str = "{\"get\":\"sample\"}\n";

#[test]
fn the_socket_is_the_owners_and_goes_with_its_holder() {
    let (rt, path) = (runtime(1), path_for("owner"));
    let socket = rt.open_control_socket(&path).unwrap();
    assert_eq!(socket.path(), path);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(ask(&path, SAMPLE).starts_with("{\"sample\":{\"timestamp\":"));
    assert!(ask(&path, "{\"get\":\"snapshot\"}\n").starts_with("{\"snapshot\":{"));
    drop(socket);
    assert!(!path.exists());
    // It can be opened again, and several at once.
    let again = rt.open_control_socket(&path).unwrap();
    let more = path_for("more");
    let second = rt.open_control_socket(&more).unwrap();
    assert_eq!(
        ask(&path, SAMPLE).len() > 100,
        ask(&more, SAMPLE).len() > 100
    );
    drop((again, second));
    assert!(!path.exists() && !more.exists());
}

#[test]
fn a_path_in_use_is_refused_and_one_left_behind_is_replaced() {
    let (rt, path) = (runtime(1), path_for("path"));
    let refused = |path: &Path| rt.open_control_socket(path).unwrap_err().kind();
    let other = UnixListener::bind(&path).unwrap();
    assert_eq!(refused(&path), ErrorKind::AddrInUse);
    drop(other);
    let socket = rt.open_control_socket(&path).unwrap();
    assert_eq!(refused(&path), ErrorKind::AddrInUse);
    // Another process's file at the path stays when the socket goes.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(refused(&path), ErrorKind::AddrInUse);
    drop(socket);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(refused(Path::new("/nowhere/at/all")), ErrorKind::NotFound);
}

#[test]
fn a_bad_request_gets_an_error_and_a_silent_client_is_disconnected() {
    let (rt, path) = (runtime(1), path_for("nonsense"));
    let _socket = rt.open_control_socket(&path).unwrap();
    for nonsense in ["hello\n", "{\"get\":\"lost\"}\n", "{}\n", "\n", "\u{0}\n"] {
        let reply = ask(&path, nonsense);
        assert!(
            reply.starts_with("{\"error\":\"the request is not understood"),
            "{reply}"
        );
    }
    // Callers who say nothing, or go away, hold up the others for a moment only.
    let mut silent = UnixStream::connect(&path).unwrap();
    drop(UnixStream::connect(&path).unwrap());
    assert!(ask(&path, SAMPLE).starts_with("{\"sample\""));
    assert_eq!(silent.read(&mut [0; 10]).unwrap(), 0, "sent away");
}

#[test]
fn the_socket_outlives_the_runtime_without_harm() {
    let (rt, path) = (runtime(1), path_for("outlives"));
    let socket = rt.open_control_socket(&path).unwrap();
    rt.shutdown().unwrap();
    assert_eq!(
        ask(&path, SAMPLE),
        "{\"error\":\"the runtime is shut down\"}\n"
    );
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn reading_goes_on_while_queues_come_and_go_under_load() {
    let (rt, path) = (std::sync::Arc::new(runtime(4)), path_for("load"));
    let _socket = rt.open_control_socket(&path).unwrap();
    let changer = {
        let rt = rt.clone();
        std::thread::spawn(move || {
            for n in 0..60 {
                let flags = [PERCPU, UNBOUND, PERCPU | workqueue::Flags::MEM_RECLAIM][n % 3];
                let q = rt.queue("q").flags(flags).build().unwrap();
                (0..50).for_each(|cpu| q.enqueue_on(cpu % 4, Call::noop()).unwrap());
                q.destroy().unwrap();
            }
        })
    };
    while !changer.is_finished() {
        for request in [SAMPLE, "{\"get\":\"snapshot\"}\n"] {
            let reply = ask(&path, request);
            assert!(
                !reply.contains("\"error\"") && reply.ends_with("}}\n"),
                "{reply}"
            );
        }
    }
    changer.join().unwrap();
}
