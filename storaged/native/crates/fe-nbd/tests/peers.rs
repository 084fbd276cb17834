//! Real clients against a memory disk on the real reactor: libnbd's tools, fio, qemu-io.
//! Without the tools a test says so and passes, except where `CI` is set.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[allow(dead_code)]
#[path = "../examples/nbd-mem.rs"]
mod nbd_mem;

use drystone_reactor::{listen_unix, spawn, Config, Remote, Running};
use std::path::PathBuf;
use std::process::Command;

struct Server {
    remote: Remote<()>,
    thread: Option<Running>,
    socket: PathBuf,
}

impl Server {
    fn start(name: &str, size: usize) -> Server {
        let socket = std::env::temp_dir().join(format!("drystone-{}-{name}.sock", std::process::id()));
        let listener = listen_unix(&socket).unwrap();
        let build = move |cx: &mut _| nbd_mem::Server::new(cx, listener, size);
        let (remote, thread) = spawn("nbd-mem", Config::default(), build).unwrap();
        Server { remote, thread: Some(thread), socket }
    }
    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.remote.send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Runs a client; `None` when it is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    // No client of these takes a minute; a hanging one must not hang the test run.
    match Command::new("timeout").arg("120").arg(program).args(args).output() {
        Ok(out) if out.status.code() == Some(127) => missing(program),
        Ok(out) => {
            let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            assert!(out.status.success(), "{program} {args:?}: {}\n{text}", out.status);
            Some(text)
        }
        Err(_) => missing("timeout"),
    }
}

fn missing(program: &str) -> Option<String> {
    assert!(std::env::var_os("CI").is_none(), "{program} is needed in CI: install libnbd-bin, fio, qemu-utils");
    println!("skipped: {program} is not installed");
    None
}

#[test]
fn nbdinfo_sees_size_flags_block_sizes_and_the_map() {
    let server = Server::start("info", 1 << 20);
    let Some(text) = run("nbdinfo", &[&server.uri()]) else {
        return;
    };
    for line in [
        "export-size: 1048576",
        "can_multi_conn: true",
        "can_fua: true",
        "can_fast_zero: true",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
        "structured",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let map = run("nbdinfo", &["--map", &server.uri()]).unwrap_or_default();
    assert!(map.contains("1048576") && map.contains("zero"), "{map}");
    let list = run("nbdinfo", &["--list", &server.uri()]).unwrap_or_default();
    assert!(list.contains("export=\"\""), "{list}");
}

#[test]
fn nbdcopy_round_trips_a_disk_over_several_connections() {
    let server = Server::start("copy", 8 << 20);
    let dir = std::env::temp_dir();
    let (from, to) =
        (dir.join(format!("dry-{}-a", std::process::id())), dir.join(format!("dry-{}-b", std::process::id())));
    let data: Vec<u8> = (0..8u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&from, &data).unwrap();
    if run("nbdcopy", &["--connections=4", "--flush", from.to_str().unwrap(), &server.uri()]).is_some() {
        run("nbdcopy", &["--connections=4", &server.uri(), to.to_str().unwrap()]);
        assert!(std::fs::read(&to).unwrap() == data);
    }
    let _ = (std::fs::remove_file(from), std::fs::remove_file(to));
}

#[test]
fn fio_verifies_what_it_wrote_at_many_sizes_and_depths() {
    let server = Server::start("fio", 32 << 20);
    let uri = format!("--uri={}", server.uri());
    for (size, depth) in [("4k", "64"), ("512", "8"), ("128k", "16"), ("4m", "4")] {
        let (bs, depth) = (format!("--bs={size}"), format!("--iodepth={depth}"));
        run(
            "fio",
            &[
                "--name=v",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                &bs,
                "--size=32m",
                &depth,
                "--io_size=24m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--do_verify=1",
                "--output-format=terse",
            ],
        );
    }
}

#[test]
fn qemu_writes_zeroes_trims_and_reads_back() {
    let server = Server::start("qemu", 32 << 20);
    let Some(text) = run(
        "qemu-io",
        &[
            "-f",
            "raw",
            &server.uri(),
            "-c",
            "write -P 5 4096 65536",
            "-c",
            "write -z 8192 4096",
            "-c",
            "read -P 0 8192 4096",
            "-c",
            "read -P 5 12288 8192",
            "-c",
            "write -f -P 7 1M 16M",
            "-c",
            "read -P 7 1M 16M",
            "-c",
            "discard 1M 1M",
            "-c",
            "read -P 0 1M 1M",
            "-c",
            "flush",
        ],
    ) else {
        return;
    };
    assert!(!text.contains("failed") && !text.contains("error"), "{text}");
}
