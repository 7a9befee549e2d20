//! Agents that were moved to even out load, by whichever engine: what a guild's budget is counted by.
//!
//! Engines see each other's moves in the stream of changes, and count them by their own clock. An engine that starts reads what the
//! registry keeps of the stream, and counts all of it as of now: it may move less than it could, and not more.

use crate::balance::MOST_MOVES;
use rustic_registry::GuildKey;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// What budgets are for.
const HOUR: Duration = Duration::from_secs(3600);
/// The moves of the last hour.
#[derive(Debug, Default)]
pub(super) struct Moves {
    by_guild: BTreeMap<GuildKey, VecDeque<Instant>>,
    latest: Option<Instant>,
}

impl Moves {
    /// One was seen.
    pub(super) fn saw(&mut self, guild: &GuildKey, now: Instant) {
        self.latest = Some(now);
        let is_recent = |at: &Instant| now.duration_since(*at) < HOUR;
        // Each guild is in here because of moves; so this is no more work than those were.
        self.by_guild.retain(|_, moves| moves.back().is_some_and(is_recent));
        let moves = self.by_guild.entry(guild.clone()).or_default();
        moves.retain(is_recent);
        moves.push_back(now);
        if moves.len() > MOST_MOVES {
            moves.pop_front();
        }
    }

    /// How many of a guild were moved within an hour.
    pub(super) fn of(&self, guild: &GuildKey, now: Instant) -> usize {
        let moves = self.by_guild.get(guild).into_iter().flatten();
        moves.filter(|at| now.duration_since(**at) < HOUR).count()
    }

    /// How long ago the last one was.
    pub(super) fn rest(&self, now: Instant) -> Option<Duration> {
        self.latest.map(|at| now.duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_registry::OrganizationId;

    fn guild(organization: &str) -> GuildKey {
        let organization: OrganizationId = organization.parse().expect("an id");
        GuildKey { organization, id: "g".parse().expect("an id") }
    }

    #[test]
    fn moves_of_a_guild_count_for_an_hour_and_not_for_the_guild_of_that_id_elsewhere() {
        let (mut moves, began) = (Moves::default(), Instant::now());
        assert_eq!(moves.rest(began), None);
        moves.saw(&guild("a"), began);
        moves.saw(&guild("a"), began + HOUR / 2);
        moves.saw(&guild("b"), began + HOUR / 2);
        let of = |moves: &Moves, organization: &str, at: Instant| moves.of(&guild(organization), at);
        assert_eq!((of(&moves, "a", began + HOUR / 2), of(&moves, "b", began + HOUR / 2)), (2, 1));
        assert_eq!((of(&moves, "a", began + HOUR), of(&moves, "b", began + 2 * HOUR)), (1, 0));
        assert_eq!(moves.rest(began + HOUR), Some(HOUR / 2));
        moves.saw(&guild("c"), began + 2 * HOUR);
        assert_eq!(moves.by_guild.len(), 1, "what is over is forgotten");
    }
}
