//! "Did you mean": the nearest of some names by edit distance.

/// The nearest of `candidates` to `word`, ignoring case, if it is near enough to be a slip of the fingers.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(&word, &candidate.to_lowercase());
            (distance <= allowed && distance < candidate.chars().count()).then_some((distance, candidate))
        })
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Help text for [`nearest`]: "did you mean `X`?".
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// Longer words are never compared: a slip of the fingers is not that long, and the table is quadratic.
const MAX_COMPARED: usize = 64;

/// Insertions, deletions, replacements and swaps of neighbours.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(MAX_COMPARED + 1).collect(), b.chars().take(MAX_COMPARED + 1).collect());
    if a.len() > MAX_COMPARED || b.len() > MAX_COMPARED {
        return if a == b { 0 } else { MAX_COMPARED };
    }
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = last.clone();
    for i in 0..a.len() {
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        std::mem::swap(&mut before_last, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a0_6_distances() {
        let table =
            [("", "", 0), ("abc", "", 3), ("abc", "abd", 1), ("abc", "acb", 1), ("abcd", "bd", 2), ("form", "from", 1), ("kitten", "sitting", 3)];
        for (a, b, distance) in table {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (distance, distance), "{a} {b}");
        }
    }

    #[test]
    fn a0_6_only_near_names_are_meant() {
        let names = ["build", "builder", "base"];
        assert_eq!(nearest("biuld", names), Some("build"));
        assert_eq!(nearest("BUILDRE", names), Some("builder"));
        assert_eq!(nearest("x", names), None);
        assert_eq!(nearest("production", names), None);
        assert_eq!(nearest(&"a".repeat(10_000), ["b"]), None);
        assert_eq!(nearest("ab", ["a"; 0]), None);
        assert_eq!(did_you_mean("bild", names).as_deref(), Some("did you mean `build`?"));
    }
}
