//! What children of the guardian are for.

/// Which generation of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GenerationId(pub u32);

impl GenerationId {
    /// That of the generation after this one.
    pub(crate) fn next(self) -> GenerationId {
        GenerationId(self.0.wrapping_add(1))
    }
}

/// What a child is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Relays the connections of a generation.
    Worker {
        /// The generation, which may still be starting.
        generation: GenerationId,
        /// The worker's slot there.
        slot: usize,
    },
    /// A worker that takes no new connection and ends with its last one.
    Draining,
    /// Looks up names for the guardian.
    Resolver,
    /// Looks up the names that clients of one worker claim (`--host-check`).
    PoolResolver,
    /// Installs, verifies or removes rules.
    Rules,
    /// Keeps the table of nft, which belongs to it.
    TableOwner,
    /// The next program, which tries whether it could take over.
    Rehearsal,
    /// Answers those who look at this instance and steer it.
    Control,
}
