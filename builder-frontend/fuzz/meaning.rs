//! What a tree says, without the places it says it at.

use builder_frontend::ast::{Dockerfile, InstructionKind};

/// Directives, and instructions with their comments, as text in which no place is left. Blank lines inside a
/// continuation and blanks behind a trigger are places as well.
pub(crate) fn meaning(dockerfile: &Dockerfile) -> (String, Vec<String>) {
    let directives = &dockerfile.directives;
    let value = |word: &Option<builder_frontend::ast::Word>| word.as_ref().map(|word| word.value.clone());
    let top = format!("{:?} {:?} {:?}", value(&directives.syntax), directives.escape, value(&directives.check));
    let instructions = dockerfile.instructions.iter().map(|one| {
        let comments: Vec<_> = one.comments.iter().map(|comment| (&comment.text, comment.followed_by_blank)).collect();
        let mut kind = one.kind.clone();
        if let InstructionKind::Onbuild(onbuild) = &mut kind {
            onbuild.text.truncate(onbuild.text.trim_end().len());
        }
        without_places(&format!("{:?} {kind:?} {:?} {comments:?}", one.keyword.value, one.heredocs))
    });
    (top, instructions.collect())
}

fn without_places(debug: &str) -> String {
    const SPAN: &str = "Span { start: ";
    let mut out = String::with_capacity(debug.len());
    let mut rest = debug;
    while let Some(at) = rest.find(SPAN) {
        out.push_str(&rest[..at]);
        out.push_str("Span");
        rest = &rest[at + SPAN.len()..];
        rest = rest.split_once('}').map_or(rest, |(_, behind)| behind);
    }
    out.push_str(rest);
    out.replace("blank_continuation: Some(Span)", "blank_continuation: None")
}
