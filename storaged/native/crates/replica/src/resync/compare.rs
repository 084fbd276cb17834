//! Comparing a chunk of the source with ours, layer by layer.

use std::collections::BTreeSet;

use drystone_store::api::{BlockKind, DigestRun, ObjectDigest};
use drystone_types::consts::CHUNK_BLOCKS;
use drystone_types::{LayerId, Version};

/// What one side holds at a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub kind: BlockKind,
    pub version: Version,
    /// Checksum of data, else 0.
    pub csum: u64,
}

impl Cell {
    /// Whoever has lost the header of a block, or cannot read it now, knows its place and no version.
    pub(crate) fn lost_version(self) -> bool {
        matches!(self.kind, BlockKind::Data | BlockKind::Zero) && self.version == Version::ZERO
    }
}

/// What to do with a block of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Todo {
    /// The source has nothing.
    Forget,
    /// A hole or zero block: the digest says all of it.
    Put(BlockKind, Version),
    /// Data to be fetched. A bad block too: another in-sync member may have its bytes. And one whose version the source
    /// cannot tell, for the same reason.
    Fetch,
}

/// Every block of one object, by block number.
pub(crate) fn cells(object: Option<&ObjectDigest>) -> Vec<Option<Cell>> {
    let mut cells = vec![None; CHUNK_BLOCKS as usize];
    for run in object.map_or(&[] as &[DigestRun], |o| o.runs.as_slice()) {
        for i in 0..run.count {
            let csum = run.csums.get(usize::from(i)).copied().unwrap_or(0);
            if let Some(cell) = cells.get_mut(usize::from(run.first) + usize::from(i)) {
                *cell = Some(Cell { kind: run.kind, version: run.version, csum });
            }
        }
    }
    cells
}

/// Layers of both sides.
pub(crate) fn layers(theirs: &[ObjectDigest], ours: &[ObjectDigest]) -> BTreeSet<LayerId> {
    theirs.iter().chain(ours).map(|o| o.layer).collect()
}

pub(crate) fn object(objects: &[ObjectDigest], layer: LayerId) -> Option<&ObjectDigest> {
    objects.iter().find(|o| o.layer == layer)
}

/// What the source's state asks of ours; `None` = equal.
pub(crate) fn todo(theirs: Option<Cell>, ours: Option<Cell>) -> Option<Todo> {
    match (theirs, ours) {
        // Both have given it up; another in-sync member may have its bytes.
        (Some(Cell { kind: BlockKind::Bad, .. }), Some(Cell { kind: BlockKind::Bad, .. })) => Some(Todo::Fetch),
        (theirs, ours) if theirs == ours => None,
        (None, _) => Some(Todo::Forget),
        // One version is one write: these are the bytes that the source lost.
        (Some(Cell { kind: BlockKind::Bad, version, .. }), Some(Cell { kind: BlockKind::Data, version: ours, .. }))
            if version == ours && version > Version::ZERO =>
        {
            None
        }
        (Some(Cell { kind: BlockKind::Data | BlockKind::Bad, .. }), _) => Some(Todo::Fetch),
        (Some(cell), _) if cell.lost_version() => Some(Todo::Fetch),
        (Some(cell), _) => Some(Todo::Put(cell.kind, cell.version)),
    }
}

/// Groups blocks with equal work into runs of at most `most` blocks each.
pub(crate) fn runs(todos: &[(u16, Todo)], most: u32) -> Vec<(u16, u16, Todo)> {
    let mut runs: Vec<(u16, u16, Todo)> = Vec::new();
    for (block, todo) in todos {
        match runs.last_mut() {
            Some((first, count, last)) if *last == *todo && *first + *count == *block && u32::from(*count) < most => {
                *count += 1;
            }
            _ => runs.push((*block, 1, *todo)),
        }
    }
    runs
}

/// Packs runs of data into requests of at most `most` blocks each.
pub(crate) fn pack(runs: &[(u16, u16)], most: u32) -> Vec<Vec<(u16, u16)>> {
    let mut requests: Vec<Vec<(u16, u16)>> = Vec::new();
    let mut room = 0u32;
    for run in runs {
        let n = u32::from(run.1);
        match requests.last_mut() {
            Some(request) if n <= room => {
                request.push(*run);
                room -= n;
            }
            _ => {
                requests.push(vec![*run]);
                room = most.saturating_sub(n);
            }
        }
    }
    requests
}
