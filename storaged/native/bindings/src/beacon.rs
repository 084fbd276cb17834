//! `BeaconCore`: the beacon of a process of its own behind a Python object.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drystone_link::{mailbox, EventSource};
use drystone_membership::BeaconConfig;
use drystone_reactor::{bind_udp, Remote, Running};
use drystone_server::beacon::{spawn_beacon_process, BeaconCommand};
use drystone_server::lease::SLOTS;
use drystone_server::lease_file::{attach_beacon, Seat};
use drystone_server::{EventSink, LeasePage, ServerEvent};
use drystone_types::{Rev, Rules, Uuid};
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::json;

use crate::error::refuse;
use crate::json::{key, uuid};
use crate::server::counts_json;
use crate::server_json::event_json;

/// The thread ends with its turn; longer means that it is stuck, and the process ends anyway.
const STOP_MAX: Duration = Duration::from_secs(2);
/// The thread answers within its turn; longer means that it is stuck.
const STATS_MAX: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    node: String,
    master: String,
    key_epoch: u32,
    boot: u64,
    listen: SocketAddr,
}

enum State {
    /// The page is zero and nobody is lent anything.
    Waiting(LeasePage, Seat),
    Running(Remote<BeaconCommand>, Running),
    Ended,
}

/// The beacon of one node and its lease page.
#[pyclass(frozen)]
pub struct BeaconCore {
    sink: EventSink,
    source: EventSource<ServerEvent>,
    state: Mutex<State>,
}

impl BeaconCore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: BeaconCommand) -> PyResult<()> {
        match &*self.state() {
            State::Running(remote, _) => {
                remote.send(command).map_err(|_| refuse("the thread of the beacon takes nothing any more"))
            }
            _ => Err(refuse("the beacon does not run")),
        }
    }
}

#[pymethods]
impl BeaconCore {
    #[new]
    fn new(py: Python<'_>, run_dir: PathBuf, boot: u64) -> PyResult<BeaconCore> {
        let (sink, source) = mailbox().map_err(refuse)?;
        // May wait two seconds for a predecessor that is being killed.
        let (page, seat) = py.detach(|| attach_beacon(&run_dir, boot)).map_err(refuse)?;
        Ok(BeaconCore { sink, source, state: Mutex::new(State::Waiting(page, seat)) })
    }

    fn start(&self, config: &str) -> PyResult<String> {
        let c: Config = serde_json::from_str(config).map_err(refuse)?;
        let (master, node) = (key(&c.master)?, uuid(&c.node)?);
        let (socket, real) = bind_udp(c.listen).map_err(|e| refuse(format_args!("beacon at {}: {e}", c.listen)))?;
        let mut state = self.state();
        let (page, seat) = match core::mem::replace(&mut *state, State::Ended) {
            State::Waiting(page, seat) => (page, seat),
            other => {
                *state = other;
                return Err(refuse("the beacon was started before"));
            }
        };
        let config =
            BeaconConfig { node, boot: c.boot, master, key_epoch: c.key_epoch, slots: SLOTS, rules: Rules::ALL };
        let (remote, running) =
            spawn_beacon_process(config, socket, (page, seat), self.sink.clone()).map_err(refuse)?;
        *state = State::Running(remote, running);
        Ok(real.to_string())
    }

    fn event_fd(&self) -> i32 {
        self.source.fd()
    }

    fn events(&self) -> Vec<String> {
        self.source.take().iter().map(|e| event_json(e).to_string()).collect()
    }

    fn voters(&self, version: u64, voters: Vec<String>, nodes: Vec<(String, String)>) -> PyResult<()> {
        self.tell(voters_of(version, &voters, &nodes)?)
    }

    fn suspects(&self, as_of: u64, keys: Vec<(String, u64)>) -> PyResult<()> {
        self.tell(suspects_of(as_of, &keys)?)
    }

    fn ask_vote(&self, node: &str, round: u64) -> PyResult<()> {
        self.tell(BeaconCommand::AskVote { node: uuid(node)?, round: Rev(round) })
    }

    fn revoke(&self, round: u64, instance: u64) -> PyResult<()> {
        self.tell(BeaconCommand::Revoke { round: Rev(round), instance })
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let (reply, answer) = std::sync::mpsc::channel();
        self.tell(BeaconCommand::Stats(reply))?;
        let found = py.detach(move || answer.recv_timeout(STATS_MAX));
        let s = found.map_err(|_| refuse("the thread of the beacon does not answer"))?;
        Ok(json!({"refused": counts_json(&s.refused), "lease_margin_us": s.lease_margin_us}).to_string())
    }

    fn stop(&self, py: Python<'_>) {
        let state = core::mem::replace(&mut *self.state(), State::Ended);
        if let State::Running(remote, running) = state {
            let _ = remote.send(BeaconCommand::Stop);
            py.detach(|| wait_for(&running));
        }
    }
}

fn wait_for(running: &Running) {
    let deadline = Instant::now() + STOP_MAX;
    // Polled, because a thread handle has no wait with a deadline.
    while !running.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Who votes and where everybody listens.
pub fn voters_of(version: u64, voters: &[String], nodes: &[(String, String)]) -> PyResult<BeaconCommand> {
    let voters = voters.iter().map(|v| uuid(v)).collect::<PyResult<Vec<Uuid>>>()?;
    let mut known = Vec::new();
    for (node, addr) in nodes {
        // A node without a usable address cannot be heard; it still counts as a voter.
        if let Ok(addr) = addr.parse::<SocketAddr>() {
            known.push((uuid(node)?, addr));
        }
    }
    Ok(BeaconCommand::Voters { version, voters, nodes: known })
}

/// Every suspicion that stands.
pub fn suspects_of(as_of: u64, keys: &[(String, u64)]) -> PyResult<BeaconCommand> {
    let keys = keys.iter().map(|(n, r)| Ok((uuid(n)?, Rev(*r)))).collect::<PyResult<Vec<_>>>()?;
    Ok(BeaconCommand::Suspects { as_of: Rev(as_of), keys })
}
