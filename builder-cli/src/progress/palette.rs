//! Colours: `BUILDKIT_COLORS`, `NO_COLOR` (`features.md` C6.1).

use crate::environment::Environment;

/// Escape sequences that begin a colour; empty without colours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Palette {
    /// Finished work.
    pub(crate) run: String,
    /// Failures.
    pub(crate) error: String,
    /// Warnings.
    pub(crate) warning: String,
    /// Cancelled work.
    pub(crate) cancel: String,
}

impl Palette {
    /// What the environment asks for, if standard error is a terminal.
    pub(crate) fn of(environment: &Environment) -> Self {
        if environment.get("NO_COLOR").is_some() || !environment.stderr_is_terminal || environment.get("TERM") == Some("dumb") {
            return Self::default();
        }
        let mut palette = Self { run: foreground("34"), error: foreground("31"), warning: foreground("33"), cancel: foreground("33") };
        for (key, value) in environment.get("BUILDKIT_COLORS").unwrap_or_default().split(':').filter_map(|pair| pair.split_once('=')) {
            let Some(colour) = colour(value) else { continue };
            match key {
                "run" => palette.run = colour,
                "error" => palette.error = colour,
                "warning" => palette.warning = colour,
                "cancel" => palette.cancel = colour,
                _ => {}
            }
        }
        palette
    }

    /// `text` in a colour of this palette.
    pub(crate) fn paint(colour: &str, text: &str) -> String {
        if colour.is_empty() { text.to_owned() } else { format!("{colour}{text}\u{1b}[0m") }
    }
}

fn foreground(code: &str) -> String {
    format!("\u{1b}[{code}m")
}

/// A colour by name or as `r,g,b`.
fn colour(text: &str) -> Option<String> {
    const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
    if let Some(at) = NAMES.iter().position(|name| *name == text) {
        return Some(foreground(&format!("{}", 30 + at)));
    }
    if let Some(at) = text.strip_prefix("light-").and_then(|name| NAMES.iter().position(|known| *known == name)) {
        return Some(foreground(&format!("{}", 90 + at)));
    }
    let parts: Vec<u8> = text.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [r, g, b] = parts[..] else { return None };
    Some(foreground(&format!("38;2;{r};{g};{b}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c6_1_colours() {
        let of = |variables: &[(&str, &str)]| {
            let mut environment = Environment::of("/", variables);
            environment.stderr_is_terminal = true;
            Palette::of(&environment)
        };
        assert_eq!(of(&[("NO_COLOR", "1")]), Palette::default());
        assert_eq!(of(&[]).error, "\u{1b}[31m");
        let own = of(&[("BUILDKIT_COLORS", "run=green:error=1,2,3:warning=nonsense:x=y")]);
        assert_eq!((own.run.as_str(), own.error.as_str(), own.warning.as_str()), ("\u{1b}[32m", "\u{1b}[38;2;1;2;3m", "\u{1b}[33m"));
    }
}
