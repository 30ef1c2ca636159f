//! "Did you mean": the nearest of some names to one that nobody knows.

/// The candidate that differs from `name` by the fewest typing slips, if it is near enough to be meant:
/// at most one slip in four characters, and at least two slips are forgiven.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A key from a stranger's file may be of any length; no declared name is this long.
    const NAME_CHARACTERS_MAX: usize = 128;
    let name: Vec<char> = name.chars().take(NAME_CHARACTERS_MAX + 1).collect();
    if name.len() > NAME_CHARACTERS_MAX {
        return None;
    }
    let slips_max = (name.len() / 4).max(2);
    candidates
        .map(|candidate| (slips(&name, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|&(slips, candidate)| slips <= slips_max && slips < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// The number of slips (a character too many, missing, wrong, or two swapped) between two words.
fn slips(left: &[char], right: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (row, &from) in left.iter().enumerate() {
        let mut current = Vec::with_capacity(right.len() + 1);
        current.push(row + 1);
        for (column, &to) in right.iter().enumerate() {
            let replaced = last[column] + usize::from(from != to);
            let mut best = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0 && column > 0 && from == right[column - 1] && left[row - 1] == to;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(left: &str, right: &str) -> usize {
        slips(&left.chars().collect::<Vec<_>>(), &right.chars().collect::<Vec<_>>())
    }

    #[test]
    fn counts_slips() {
        assert_eq!(count("log.dirs", "log.dirs"), 0);
        assert_eq!(count("log.dri", "log.dir"), 1);
        assert_eq!(count("", "abc"), 3);
        assert_eq!(count("abc", ""), 3);
        assert_eq!(count("kitten", "sitting"), 3);
    }

    #[test]
    fn suggests_only_what_may_be_meant() {
        let names = ["log.dirs", "log.retention.ms", "node.id"];
        assert_eq!(nearest("log.retension.ms", names.into_iter()), Some("log.retention.ms"));
        assert_eq!(nearest("nodeid", names.into_iter()), Some("node.id"));
        assert_eq!(nearest("zookeeper.connect", names.into_iter()), None);
        assert_eq!(nearest("", ["a"].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(10_000), names.into_iter()), None);
    }
}
