//! What is wrong with a policy file, as a compiler would say it: `file:line:column: what; what to do`.

use miette::Diagnostic;

/// Of Cedar's own errors. Their places count from the start of the file, since each file is parsed by itself.
pub(super) fn of(file: &str, text: &str, error: &dyn Diagnostic) -> String {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
    match offset {
        Some(offset) => at(file, text, offset, &format!("{error}{help}")),
        None => format!("{file}: {error}{help}"),
    }
}

pub(super) fn at(file: &str, text: &str, offset: usize, message: &str) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{file}:{line}:{column}: {message}")
}
