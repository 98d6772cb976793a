//! `key=value,key=value` as `--output`, `--secret` and others take it: one record of comma-separated values with `"` quoting.

use anyhow::{Result, bail};

/// The fields of one record. `"a,b"` is one field, `""` inside it is a quote.
pub(crate) fn fields(flag: &str, text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest.split_once(',').map_or((rest, None), |(field, after)| (field, Some(after)));
            if field.contains('"') {
                bail!("invalid {flag} {text:?}: a quote inside an unquoted field; quote the whole field, as in \"\\\"dest=a,b\\\"\"");
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let (field, after) = quoted_field(quoted).ok_or_else(|| anyhow::anyhow!("invalid {flag} {text:?}: a quoted field does not end"))?;
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(fields),
            None => bail!("invalid {flag} {text:?}: text after a quoted field; expected a comma"),
        }
    }
}

fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        let Some(after_pair) = after.strip_prefix('"') else { return Some((field, after)) };
        field.push('"');
        rest = after_pair;
    }
}

/// The fields as pairs; keys in lower case. A field without `=` has an empty value when `bare` allows it.
pub(crate) fn pairs(flag: &str, text: &str, bare: &[&str]) -> Result<Vec<(String, String)>> {
    fields(flag, text)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.to_owned())),
            None if bare.contains(&field.as_str()) => Ok((field, String::new())),
            None => bail!("invalid {flag} {text:?}: field {field:?} is no key=value"),
        })
        .collect()
}

/// A switch in such a list: `true`, `1`, … as Go's `strconv.ParseBool` reads them.
pub(crate) fn switch(flag: &str, key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bail!("invalid {flag}: {key}={value:?} is neither true nor false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_records() {
        for (text, expected) in [
            ("type=oci,dest=a.tar", vec!["type=oci", "dest=a.tar"]),
            ("\"dest=a,b\",type=tar", vec!["dest=a,b", "type=tar"]),
            ("\"a\"\"b\"", vec!["a\"b"]),
            ("", vec![""]),
        ] {
            assert_eq!(fields("--output", text).expect(text), expected);
        }
        for bad in ["\"a", "a\"b", "\"a\"b"] {
            assert!(fields("--output", bad).is_err(), "{bad}");
        }
    }
}
