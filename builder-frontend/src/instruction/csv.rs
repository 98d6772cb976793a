//! Comma-separated fields, as the values of `--mount` are written (`features.md` A8.3).

/// Fields of one CSV record, each with where it begins: commas separate, a field in double quotes may hold commas, `""` in it is a quote.
pub(crate) fn fields(text: &str) -> Result<Vec<(String, usize)>, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    None => return Err("a double quote is not closed"),
                    Some((_, '"')) if chars.next_if(|&(_, next)| next == '"').is_some() => field.push('"'),
                    Some((position, '"')) => break at + 1 + position + 1,
                    Some((_, c)) => field.push(c),
                }
            };
            fields.push((field, at + 1));
            match text[end..].chars().next() {
                None => return Ok(fields),
                Some(',') => at = end + 1,
                Some(_) => return Err("text follows a closing double quote"),
            }
        } else {
            let field = rest.split(',').next().unwrap_or_default();
            if field.contains('"') {
                return Err("a double quote stands inside a field that does not begin with one");
            }
            fields.push((field.to_owned(), at));
            at += field.len();
            if at == text.len() {
                return Ok(fields);
            }
            at += 1;
        }
    }
}

/// One field as [`fields`] reads it.
#[cfg(any(feature = "compile", test))]
pub(crate) fn field(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_3_fields() {
        let table: &[(&str, Result<&[&str], ()>)] = &[
            ("type=cache,target=/c", Ok(&["type=cache", "target=/c"])),
            ("\"target=/a,b\",ro", Ok(&["target=/a,b", "ro"])),
            ("\"a\"\"b\"", Ok(&["a\"b"])),
            ("a,", Ok(&["a", ""])),
            ("", Err(())),
            ("a\"b", Err(())),
            ("\"a\"b", Err(())),
            ("\"a", Err(())),
        ];
        for (text, wanted) in table {
            let found = fields(text).map(|fields| fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>());
            assert_eq!(found.map_err(|_| ()), wanted.map(|fields| fields.iter().map(|field| (*field).to_owned()).collect()), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["a=b", "target=/a,b", "a\"b", "\"", "", "a b", ","] {
            let record = format!("first,{},last", field(text));
            let read = fields(&record).map(|fields| fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>());
            assert_eq!(read.as_deref(), Ok(&["first".to_owned(), text.to_owned(), "last".to_owned()][..]), "{record}");
        }
    }
}
