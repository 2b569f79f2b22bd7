//! Names as people write them: what a resource name repeats may be left out.

/// `STORE/SECRET`, or `STORE/SECRET@VERSION`.
pub(super) fn secret(text: &str) -> String {
    match text.split_once('/') {
        Some(("stores", _)) | None => text.to_owned(),
        Some((store, rest)) => match rest.split_once('@') {
            Some((secret, version)) => format!("stores/{store}/secrets/{secret}/versions/{version}"),
            None => format!("stores/{store}/secrets/{rest}"),
        },
    }
}

/// The secret's own name, whatever version of it was named.
pub(super) fn without_version(name: &str) -> &str {
    name.split_once("/versions/").map_or(name, |(secret, _)| secret)
}

/// `DATABASE/ROLE`
pub(super) fn role(text: &str) -> String {
    match text.split_once('/') {
        Some(("databases", _)) | None => text.to_owned(),
        Some((database, role)) => format!("databases/{database}/roles/{role}"),
    }
}

/// A bare id in its collection: `stores/local` for `local`.
pub(super) fn within(collection: &str, text: &str) -> String {
    if text.contains('/') || text.is_empty() { text.to_owned() } else { format!("{collection}/{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_and_whole_ones_mean_the_same() {
        for (short, whole) in [
            ("local/db", "stores/local/secrets/db"),
            ("local/db@3", "stores/local/secrets/db/versions/3"),
            ("stores/local/secrets/db", "stores/local/secrets/db"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(secret(short), whole);
        }
        assert_eq!(role("orders/app"), "databases/orders/roles/app");
        assert_eq!(role("databases/orders/roles/app"), "databases/orders/roles/app");
        assert_eq!(
            (within("stores", "local"), within("stores", "stores/local")),
            ("stores/local".into(), "stores/local".into())
        );
        assert_eq!(without_version("stores/local/secrets/db/versions/3"), "stores/local/secrets/db");
    }
}
