//! `drystone-fuse`: see the library's documentation.

#![forbid(unsafe_code)]

use std::error::Error;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use drystone_fe_fuse::args::{Args, USAGE};
use drystone_fe_fuse::control::Control;
use drystone_fe_fuse::fs::Volume;
use drystone_fe_fuse::link::Link;
use fuser::{BackgroundSession, Config, MountOption};

/// The server has to be there at the start: whoever starts this process has just made the
/// export, so a longer wait would only hide a mistake.
const FIRST_CONNECTION_DEADLINE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("drystone-fuse: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drystone-fuse: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    stay_out_of_write_back();
    let link = Link::open(args.target.clone(), FIRST_CONNECTION_DEADLINE)?;
    let opens = Arc::new(AtomicUsize::new(0));
    let volume = Volume::new(Arc::clone(&link), Arc::clone(&opens), args.read_only, args.trim_zeroes);
    // The control socket comes before the mount and is served after it: whoever gets an
    // answer from it knows that the file is there.
    let listener = UnixListener::bind(&args.control)?;
    let session = fuser::spawn_mount(volume, &args.mount, &mount_options())?;
    wait_for_end(session, Control::new(link, opens), listener)?;
    std::fs::remove_file(&args.control)?;
    Ok(())
}

fn mount_options() -> Config {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("drystone".into()), MountOption::NoDev, MountOption::NoSuid, MountOption::NoExec];
    config
}

/// Returns when `quit` was accepted or somebody else unmounted; the mount is gone then.
fn wait_for_end(session: BackgroundSession, control: Control, listener: UnixListener) -> Result<(), Box<dyn Error>> {
    let (ended, end) = mpsc::channel();
    let unmounted = ended.clone();
    let guard = session.guard;
    thread::Builder::new().name("session".into()).spawn(move || {
        let result = guard.join().unwrap_or_else(|_| Err(std::io::Error::other("panicked")));
        unmounted.send(result)
    })?;
    thread::Builder::new().name("control".into()).spawn(move || ended.send(control.serve(&listener)))?;
    end.recv()??;
    Ok(())
}

/// This process is in the way of dirty pages to the disk. If an allocation of its own waited
/// for such pages to be written, it would wait for itself. Both calls need a privilege, and
/// without it the process is merely as good as others: a user's test goes on.
fn stay_out_of_write_back() {
    use rustix::mm::{mlockall, MlockAllFlags};
    use rustix::process::configure_io_flusher_behavior;
    if let Err(error) = configure_io_flusher_behavior(true) {
        eprintln!("drystone-fuse: no IO_FLUSHER state ({error})");
    }
    // Killing this process frees a few MiB and breaks a file system.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("drystone-fuse: may be killed when memory runs out ({error})");
    }
    // On fault: FUSE's receive buffer is 16 MiB of which a few hundred KiB are ever touched.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        eprintln!("drystone-fuse: memory is not locked ({error})");
    }
}
