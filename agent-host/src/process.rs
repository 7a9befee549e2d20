//! Operating system processes: started from one thread that never ends, reaped without leaving a zombie or an orphan.
//!
//! Every process is the leader of its own session, dies with this host (PDEATHSIG), and is watched through a pidfd, so
//! that a reused process id is never mistaken for it. This module knows nothing of agents.

pub mod bounds;
mod child;
pub mod crowd;
mod inherited;
pub mod kin;
mod mark;
pub mod memory;
mod orphans;
mod scratch;
mod spawner;
mod table;
pub mod usage;

pub use child::{Child, Signal};
pub use inherited::keep_from_children;
pub use mark::{Life, Mark};
pub use orphans::{Expected, Kin, Orphans};
pub use spawner::{OfAgent, OnHostsEnd, SpawnError, Spawner, Started, output_pipe};
