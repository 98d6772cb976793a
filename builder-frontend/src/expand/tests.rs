//! Tests of expansion by feature id, and against a slow model.

use proptest::prelude::*;

use super::*;

fn environment() -> Environment {
    [
        ("SET", "s"),
        ("EMPTY", ""),
        ("X", "val"),
        ("A", "1"),
        ("AB", "2"),
        ("A_1", "3"),
        ("B", "two"),
        ("P", "/usr/local/lib/libfoo.so.1.2"),
        ("V", "a-b-c-d"),
        ("S", "x/y/z"),
        ("PORTS", "80 443/udp"),
        ("BRACE", "a}b"),
    ]
    .into_iter()
    .collect()
}

fn expand(word: &str) -> Result<String, String> {
    expand_word(word, &environment(), '\\').map(|expanded| expanded.text).map_err(|error| error.reason)
}

fn check(table: &[(&str, &str)]) {
    for (word, wanted) in table {
        assert_eq!(expand(word).as_deref(), Ok(*wanted), "{word}");
    }
}

#[test]
fn a5_1_modifiers() {
    check(&[
        ("${SET-d},${EMPTY-d},${UNSET-d}", "s,,d"),
        ("${SET:-d},${EMPTY:-d},${UNSET:-d}", "s,d,d"),
        ("${SET+a},${EMPTY+a},${UNSET+a}", "a,a,"),
        ("${SET:+a},${EMPTY:+a},${UNSET:+a}", "a,,"),
        ("${SET?no},${EMPTY?no},${SET:?no}", "s,,s"),
        ("${P#/usr/} ${P##*/} ${P%.*} ${P%%.*}", "local/lib/libfoo.so.1.2 libfoo.so.1.2 /usr/local/lib/libfoo.so.1 /usr/local/lib/libfoo"),
        ("${UNSET#x}", ""),
        ("${V/-/_} ${V//-/_} ${V//-/} ${V/a*c/X} ${V//?/.}", "a_b-c-d a_b_c_d abcd X-d ......."),
        ("${S//\\//-} ${V/zz/q} ${V/b/$S} ${UNSET/a/b}", "x-y-z a-b-c-d a-x/y/z-c-d "),
        ("${BRACE%\\}b}", "a"),
    ]);
}

#[test]
fn a5_1_errors() {
    let table = [
        ("${B!c}", "unsupported modifier (!) in substitution"),
        ("${B:#c}", "unsupported modifier (:#) in substitution"),
        ("${B:%c}", "unsupported modifier (:%) in substitution"),
        ("${}", "syntax error: bad substitution"),
        ("${:", "syntax error: bad substitution"),
        ("${{B}}", "syntax error: bad substitution"),
        ("${", "syntax error: missing '}'"),
        ("${B", "syntax error: missing '}'"),
        ("${B:", "syntax error: missing '}'"),
        ("${B:-x", "syntax error: missing '}'"),
        ("${B/x}", "syntax error: missing '/' in ${}"),
        ("${B/x/y", "syntax error: missing '}'"),
        ("${#B}", "unsupported modifier (B) in substitution"),
        ("'a", "a single quote is not closed"),
        ("\"a", "a double quote is not closed"),
    ];
    for (word, reason) in table {
        assert_eq!(expand(word), Err(reason.to_owned()), "{word}");
    }
    let pattern = expand("${V/\\q/x}").expect_err("there is no such escape");
    assert!(pattern.starts_with("V: the pattern \"\\\\q\""), "{pattern}");
}

#[test]
fn a5_2_required() {
    let table = [
        ("${UNSET?must be given}", "UNSET: must be given"),
        ("${UNSET?}", "UNSET: is not allowed to be unset"),
        ("${EMPTY:?empty here}", "EMPTY: empty here"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${UNSET:?}", "UNSET: is not allowed to be unset"),
        ("${SET:-${UNSET?nested}}", "UNSET: nested"),
    ];
    for (word, reason) in table {
        assert_eq!(expand(word), Err(reason.to_owned()), "{word}");
    }
    let error = expand_word("\"${UNSET?say why}\"", &environment(), '\\').expect_err("it is required");
    assert_eq!(error.to_string(), "UNSET: say why", "the author's own words");
}

#[test]
fn a5_3_nesting() {
    check(&[
        ("${NONE:-${A}-${B}}", "1-two"),
        ("${NONE:-${ALSO:-$B}}", "two"),
        ("${A:+\"q $B\"}", "q two"),
        ("\"${NONE:-in quotes}\"", "in quotes"),
        ("${NONE:-a\\ b}", "a b"),
        ("${NONE:-${NONE}}x", "x"),
        ("${NONE:-'}'}", "}"),
    ]);
    let deep = "${N:-".repeat(5_000) + &"}".repeat(5_000);
    assert!(expand(&deep).is_err_and(|reason| reason.contains("nested deeper")));
}

#[test]
fn a5_5_names() {
    check(&[
        ("$A.x", "1.x"),
        ("${A}B", "1B"),
        ("$AB", "2"),
        ("$A_1", "3"),
        ("$A-1", "1-1"),
        ("$", "$"),
        ("\"a$\"", "a$"),
        ("$ x", "$ x"),
        ("[$1]", "[]"),
        ("[$12x]", "[x]"),
        ("[$@$*]", "[]"),
        ("$A$AB", "12"),
        ("100$%", "100$%"),
        ("[$-]", "[]"),
    ]);
}

#[test]
fn a5_5_used_and_undefined() {
    let expanded = expand_word("$A ${NOPE:-$ALSO} $A '$QUOTED' \\$ESCAPED ${NOPE}", &environment(), '\\').expect("it is fine");
    assert_eq!(expanded.used, ["A", "ALSO", "NOPE"]);
    assert_eq!(expanded.undefined, ["ALSO", "NOPE"]);
}

#[test]
fn a5_6_quoting() {
    check(&[
        ("'$X'", "$X"),
        ("\"$X\"", "val"),
        ("\"'$X'\"", "'val'"),
        ("'\"$X\"'", "\"$X\""),
        ("\\$X", "$X"),
        ("\"\\$X\"", "$X"),
        ("a\\ b", "a b"),
        ("\"a\\\"b\"", "a\"b"),
        ("\"back\\\\slash\"", "back\\slash"),
        ("'it'\"'\"'s'", "it's"),
        ("pre\"$X\"post'$X'", "prevalpost$X"),
        ("\"\\n\"", "\\n"),
        ("\\n", "n"),
        ("\"\"", ""),
        ("end\\\\", "end\\"),
        ("end\\", "end"),
    ]);
    let backtick = |word: &str| expand_word(word, &environment(), '`').map(|expanded| expanded.text);
    assert_eq!(backtick("C:\\dir`$X").as_deref(), Ok("C:\\dir$X"));
    assert_eq!(backtick("\"a`\"b\"").as_deref(), Ok("a\"b"));
}

#[test]
fn a5_7_words() {
    let words = |word: &str| expand_words(word, &environment(), '\\').map(|expanded| expanded.words).unwrap_or_default();
    assert_eq!(words("$PORTS"), ["80", "443/udp"]);
    assert_eq!(words("90${A}"), ["901"]);
    assert_eq!(words("\"$PORTS\""), ["80 443/udp"]);
    assert_eq!(words("a$PORTS\\ x"), ["a80", "443/udp x"]);
    assert_eq!(words("$EMPTY\"\""), [""; 0]);
}

#[test]
fn a3_5_heredoc_bodies() {
    let body = "name=$X none=[${NONE:-default}] esc=\\$X \"quoted\" 'single $X' it's\na\\\nb \\n";
    let expanded = expand_heredoc(body, &environment()).expect("it is fine");
    assert_eq!(expanded.text, "name=val none=[default] esc=$X \"quoted\" 'single val' it's\na\nb n");
}

#[test]
fn results_are_bounded() {
    let mut environment = Environment::new();
    environment.set("B", "b".repeat(1 << 20));
    assert!(expand_word("$B$B$B$B$B", &environment, '\\').is_err_and(|error| error.reason.contains("longer than")));
    assert!(expand_word("${B//b/$B}", &environment, '\\').is_err());
    let hard = format!("${{B##{}c}}", "*b".repeat(1000));
    assert!(expand_word(&hard, &environment, '\\').is_err_and(|error| error.reason.contains("too long")));
}

#[test]
fn environments_keep_their_order() {
    let mut environment: Environment = [("B", "1"), ("A", "2")].into_iter().collect();
    environment.set("B", "3");
    environment.set("C", "4");
    assert_eq!(environment.iter().collect::<Vec<_>>(), [("B", "3"), ("A", "2"), ("C", "4")]);
}

proptest! {
    #[test]
    fn any_text_expands_or_is_an_error(word in "[$A{}:#%/?*'\"`\\\\ \n-]{0,40}", backtick: bool) {
        let escape = if backtick { '`' } else { '\\' };
        let _ = expand_word(&word, &environment(), escape);
        let _ = expand_words(&word, &environment(), escape);
        let _ = expand_heredoc(&word, &environment());
    }

    #[test]
    fn any_unicode_expands_or_is_an_error(word in any::<String>()) {
        let _ = expand_word(&word, &environment(), '\\');
        let _ = expand_heredoc(&word, &environment());
    }

    #[test]
    fn text_without_signs_stays(word in "[a-zA-Z0-9 =:/.]{0,40}") {
        prop_assert_eq!(expand(&word), Ok(word));
    }

    #[test]
    fn single_quotes_protect_everything(word in "[^']{0,40}") {
        prop_assert_eq!(expand(&format!("'{word}'")), Ok(word));
    }
}
