use super::*;
use crate::diff::work;

fn words_changed(base: &str, new: &str) -> Vec<(String, String)> {
    let (old, other) = (Chars::of(base), Chars::of(new));
    text_hunks(base, new)
        .iter()
        .map(|hunk| (old.cut(&hunk.old), other.cut(&hunk.new)))
        .collect()
}

fn changes(base: &str, new: &str) -> Vec<(&'static str, &'static str)> {
    words_changed(base, new)
        .into_iter()
        .map(|(old, new)| (&*old.leak(), &*new.leak()))
        .collect()
}

#[test]
fn only_what_changed_is_touched() {
    assert_eq!(changes("same", "same"), []);
    assert_eq!(
        changes("the quick brown fox", "the quack brown dog fox"),
        [("quick", "quack"), ("", "dog ")]
    );
    assert_eq!(changes("one word\n", "one words\n"), [("", "s")]);
    assert_eq!(changes("colour", "color"), [("u", "")]);
    assert_eq!(changes("a\nb\nc\n", "a\nc\n"), [("b\n", "")]);
}

#[test]
fn a_replaced_word_is_replaced_whole() {
    assert_eq!(changes("cat", "cow"), [("cat", "cow")]);
    assert_eq!(changes("a", "banana"), [("a", "banana")]);
    let mine = merged("a cat sat", "a dog sat", "a cow sat");
    assert!(mine == "a cowdog sat" || mine == "a dogcow sat", "{mine}");
}

#[test]
fn words_replaced_together_stay_together() {
    assert_eq!(
        changes("The quick brown fox runs.", "The slow red dog runs."),
        [("quick brown fox", "slow red dog")]
    );
    // Common words in two versions of a sentence are a coincidence.
    assert_eq!(
        changes(
            "Keep.\nWe met on Monday in the hall to talk of the plan.\nKeep.\n",
            "Keep.\nNobody came at all because the roof let in half of a sea.\nKeep.\n"
        )
        .len(),
        1
    );
    // A word changed here and there is none.
    assert_eq!(
        changes("a b c d e f g h i j", "a X c d e Y g h i Z").len(),
        3
    );
}

#[test]
fn characters_that_people_see_are_never_cut() {
    let family = "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}";
    let couple = "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f466}";
    assert_eq!(
        words_changed(&format!("a {family} b"), &format!("a {couple} b")),
        [(family.to_owned(), couple.to_owned())]
    );
    assert_eq!(
        words_changed("cafe\u{301}s", "cafes"),
        [("cafe\u{301}s".to_owned(), "cafes".to_owned())]
    );
}

#[test]
fn what_others_did_meanwhile_stays() {
    let base = "one two three\nfour five six\n";
    let new = "one two THREE\nfour five six\nseven\n";
    let current = "zero one two three\nfour 5 six\n";
    assert_eq!(
        merged(base, new, current),
        "zero one two THREE\nfour 5 six\nseven\n"
    );
    assert_eq!(merged("abcdef", "abcdeXf", "Yabcdef"), "YabcdeXf");
    assert_eq!(merged("a b c", "a c", "a c"), "a c");
    assert_eq!(merged("keep drop", "keep", ""), "");
    assert_eq!(
        merged("head body tail", "head body new tail", "head tail"),
        "head new tail"
    );
    assert_eq!(merged("see cat", "see X cat", "see cow"), "see X cow");
    assert_eq!(
        merged("log\n", "log\nmine\n", "log\ntheirs\n"),
        "log\ntheirs\nmine\n"
    );
    // Both corrected the same mistake.
    assert_eq!(
        merged("teh end, teh", "the end, teh", "the end, teh."),
        "the end, teh."
    );
}

#[test]
fn words_never_grow_together() {
    // Others took the sentence away with what stood behind it; it was rewritten here.
    let base = "One two. Old words here. Five six seven.";
    let others = "One two. Five six seven.";
    let rewritten = "One two. Anna wrote this. Five six seven.";
    let both = merged(base, rewritten, others);
    assert_eq!(both, rewritten);
    // The other way round: the blank stays with the sentence that stays.
    assert_eq!(merged(base, others, rewritten), rewritten);
    assert_eq!(merged("a cat sat", "a sat", "a cow sat"), "a cow sat");
    assert_eq!(merged("a cat sat", "a catsat", "my cat sat"), "my catsat");
    // A third one put a word into it: the sentence behind it stays whole.
    let third = merged(base, "One two. Old good words here. Five six seven.", &both);
    assert!(third.ends_with(" Five six seven."), "{third}");
    assert_eq!(
        merged("one two three", "one two four", "one two"),
        "one two four"
    );
}

#[test]
fn what_others_left_of_a_line_end_keeps_no_words_apart_behind_it() {
    // Others took two sentences away and left the empty line between them; a word of the first was replaced here.
    let base = "One two. Be Bert was here.\n\nFour five. To six seven.";
    let others = "One two. \n\nTo six seven.";
    let both = merged(base, &base.replace("Bert", "Anna"), others);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(words(&both), ["One", "two.", "Anna", "To", "six", "seven."]);
    // A third one put a sentence between.
    let third = merged(base, &base.replace("five. ", "five. Carl too. "), &both);
    assert!(third.ends_with(" To six seven."), "{third}");
}

#[test]
fn words_that_grew_together_are_found_again() {
    // Apart, an engine puts what one wrote right beside what another left.
    let base = "One two. Old words here. Some more here. Five six seven.";
    let grown = "One two. Anna wroteFive six seven.";
    for (third, both) in [
        ("more here. Bert too. Five", "Bert too. Five six seven."),
        ("more here. Good Five", "Good Five six seven."),
    ] {
        let third = merged(base, &base.replace("more here. Five", third), grown);
        assert!(third.ends_with(both), "{third}");
    }
    assert_eq!(changes("a cat sat", "a catsat"), [(" ", "")]);
    assert_eq!(changes("a catsat", "a cat sat"), [("", " ")]);
}

#[test]
fn an_idle_side_changes_nothing() {
    let texts = [
        "",
        "a",
        "ab",
        "a b",
        "b a",
        "\u{e9} b\n",
        "aa bb cc",
        "cc bb aa",
        "\r\n",
        "a\r\nb",
    ];
    for base in texts {
        for other in texts {
            assert_eq!(merged(base, other, base), other, "{base:?} to {other:?}");
            assert_eq!(merged(base, base, other), other, "{base:?} to {other:?}");
            assert_eq!(merged(base, other, other), other, "{base:?} to {other:?}");
        }
    }
}

/// A text of `words` words; `salt` changes all of them.
fn long(words: usize, salt: usize) -> String {
    (0..words)
        .map(|at| {
            format!(
                "{}{}",
                (at * 7919 + salt) % 499,
                if at % 19 == 18 { ".\n" } else { " " }
            )
        })
        .collect()
}

/// Comparisons made per word, for texts that differ in different ways.
fn work_per_word(words: usize) -> [u64; 4] {
    let base = long(words, 0);
    let every_third: String = base
        .split_inclusive(' ')
        .enumerate()
        .map(|(at, word)| if at % 3 == 0 { "new " } else { word })
        .collect();
    let one_line = base.replace('\n', " ");
    let cases = [
        (base.clone(), long(words, 250)),
        (base.clone(), every_third.clone()),
        (one_line, every_third.replace('\n', " ")),
        (
            "to be or not ".repeat(words / 4),
            "to be not or ".repeat(words / 4),
        ),
    ];
    cases.map(|(old, new)| {
        work::take();
        let _ = text_hunks(&old, &new);
        work::take() / words as u64
    })
}

#[test]
fn work_per_word_does_not_grow() {
    let (short, long) = (work_per_word(3_000), work_per_word(24_000));
    for (short, long) in short.iter().zip(long) {
        assert!(long <= short * 3 / 2 + 2, "{short} became {long}");
    }
}

proptest::proptest! {
    #[test]
    fn edits_turn_old_into_new(old in "[ab \u{e9}\u{1f600}\n]{0,40}", new in "[ab \u{e9}\u{1f600}\n]{0,40}") {
        proptest::prop_assert_eq!(merged(&old, &new, &old), new.clone());
        proptest::prop_assert_eq!(merged(&old, &old, &new), new);
    }

    /// Edits come last first, inside the text, and never over each other.
    #[test]
    fn edits_are_in_order(
        base in "[ab \n]{0,30}", new in "[abc \n]{0,30}", current in "[abd \n]{0,30}"
    ) {
        let mut end = current.chars().count();
        for edit in text_edits(&base, &new, &current) {
            proptest::prop_assert!(edit.position + edit.delete <= end);
            end = edit.position;
        }
    }
}
