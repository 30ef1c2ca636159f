//! On which shard a connection would be best.
//!
//! A request whose partitions live on another shard costs a message there, one back, and often a wake-up for each. A
//! client that goes on asking for partitions of one other shard had better be served there. Moving costs a pause,
//! so it is not done lightly, and less and less so: a connection between two shards does not go to and fro.

use crate::partition::router::Touched;
use logmill_wire::ids::ShardIndex;

/// Requests in a row that make a connection move for the first time.
const FIRST_STREAK: u32 = 64;

/// How many times as many it takes each time after that.
const STREAK_GROWTH: u32 = 8;

/// What the requests of a connection had in common so far.
pub(super) struct Affinity {
    home: ShardIndex,
    /// The shard that the last requests were for.
    shard: ShardIndex,
    /// How many they were; 0 if they were for partitions at home.
    streak: u32,
    needed: u32,
    stays: bool,
}

impl Affinity {
    /// Of a connection that comes to shard `home` after so many moves.
    pub(super) fn new(home: ShardIndex, moves: u32) -> Self {
        let needed = FIRST_STREAK.saturating_mul(STREAK_GROWTH.saturating_pow(moves));
        Self { home, shard: home, streak: 0, needed, stays: false }
    }

    /// Takes note of a request, and returns where the connection should move, if it should.
    pub(super) fn note(&mut self, touched: Touched) -> Option<ShardIndex> {
        match touched {
            // It says nothing of partitions.
            Touched::None => return None,
            Touched::One(shard) if shard != self.home && shard == self.shard => self.streak += 1,
            Touched::One(shard) => {
                self.shard = shard;
                self.streak = u32::from(shard != self.home);
            }
            Touched::Several => self.streak = 0,
            Touched::Home => self.stays = true,
        }
        (self.streak >= self.needed && !self.stays).then_some(self.shard)
    }

    /// Takes note that the connection could not move: it takes longer until that is tried again.
    pub(super) fn refused(&mut self) {
        self.streak = 0;
        self.needed = self.needed.saturating_mul(STREAK_GROWTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: ShardIndex = ShardIndex(1);
    const AWAY: ShardIndex = ShardIndex(0);

    /// After how many requests of a kind the connection is to move, of so many at the most.
    fn moves_after(affinity: &mut Affinity, touched: Touched, most: u32) -> Option<u32> {
        (1..=most).find(|_| affinity.note(touched).is_some())
    }

    #[test]
    fn a_streak_for_one_other_shard_moves_the_connection() {
        let mut affinity = Affinity::new(HOME, 0);
        assert_eq!(moves_after(&mut affinity, Touched::One(HOME), 1_000), None);
        assert_eq!(moves_after(&mut affinity, Touched::One(AWAY), 1_000), Some(FIRST_STREAK));
        assert_eq!(affinity.note(Touched::One(AWAY)), Some(AWAY));
        affinity.refused();
        assert_eq!(moves_after(&mut affinity, Touched::One(AWAY), 1_000), Some(FIRST_STREAK * STREAK_GROWTH));
    }

    #[test]
    fn anything_else_between_begins_anew() {
        for between in [Touched::Several, Touched::One(HOME), Touched::One(ShardIndex(2))] {
            let mut affinity = Affinity::new(HOME, 0);
            for _ in 0..10 {
                assert_eq!(moves_after(&mut affinity, Touched::One(AWAY), FIRST_STREAK - 1), None);
                assert_eq!(affinity.note(between), None);
            }
        }
        let mut affinity = Affinity::new(HOME, 0);
        assert_eq!(moves_after(&mut affinity, Touched::One(AWAY), FIRST_STREAK - 1), None);
        assert_eq!(affinity.note(Touched::None), None);
        assert_eq!(affinity.note(Touched::One(AWAY)), Some(AWAY), "what is for no partition says nothing");
    }

    #[test]
    fn who_has_something_at_home_stays() {
        let mut affinity = Affinity::new(HOME, 0);
        assert_eq!(affinity.note(Touched::Home), None);
        assert_eq!(moves_after(&mut affinity, Touched::One(AWAY), 1_000), None);
    }

    #[test]
    fn each_move_takes_longer_than_the_one_before() {
        let mut requests = 0;
        for (moves, home) in [HOME, AWAY, HOME, AWAY].into_iter().enumerate() {
            let other = if home == HOME { AWAY } else { HOME };
            let mut affinity = Affinity::new(home, moves as u32);
            requests += moves_after(&mut affinity, Touched::One(other), 1 << 20).unwrap();
        }
        assert_eq!(requests, 64 + 512 + 4_096 + 32_768);
        assert_eq!(moves_after(&mut Affinity::new(HOME, 99), Touched::One(AWAY), 1 << 20), None);
    }
}
