//! Secret bytes: no `Debug`, no `Display`, no `Serialize`, zeroed when the last holder lets go.

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::audit::Receipt;

/// A secret's payload. Clones share one buffer; only an audit receipt turns it into bytes that can leave.
///
/// ```compile_fail
/// fn prints<T: std::fmt::Debug>() {}
/// prints::<keyferry_broker::secrets::SecretBytes>();
/// ```
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has no text form")]
pub struct SecretBytes(Bytes);

/// Lets `Bytes` own a buffer that zeroes itself.
struct Owner(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Bytes::from_owner(Owner(Zeroizing::new(bytes))))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the answer to the caller: the receipt proves that the disclosure is on record. Shares the buffer.
    pub fn disclose(&self, _on_record: &Receipt) -> Bytes {
        self.0.clone()
    }

    /// For a provider that must store or check the bytes.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}
