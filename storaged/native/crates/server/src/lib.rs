//! Shell of the storage server: one reactor thread per drive, one for the beacon (here or in a process of its
//! own), and the page through which the beacon lends read leases to the drives.
//!
//! Here are sockets, files, threads and the clock; every decision is made by the cores
//! (`replica`, `store`, `membership`). The process around it feeds maps and commands in and
//! takes [`ServerEvent`]s out; nothing here waits for it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod beacon;
mod drive;
pub mod events;
pub mod lease;
pub mod lease_file;
pub mod lease_watch;
pub mod lookfile;
pub mod openfile;

pub use drive::{spawn_drive, DeviceStats, DriveCommand, DriveConfig, DriveHandle, DriveRemote, DriveStats};
pub use events::{EventSink, EventSource, ServerEvent};
pub use lease::LeasePage;
