//! Operating system processes: started from one thread that never ends, reaped without leaving a zombie or an orphan.
//!
//! Every process is the leader of its own session, dies with this host (PDEATHSIG), and is watched through a pidfd, so
//! that a reused process id is never mistaken for it. This module knows nothing of agents.

mod child;
mod inherited;
pub mod memory;
mod orphans;
mod spawner;
pub mod usage;

pub use child::{Child, Signal};
pub use inherited::keep_from_children;
pub use orphans::{Expected, Orphans, RUN_VARIABLE};
pub use spawner::{OnHostsEnd, SpawnError, Spawner, Started, output_pipe};
