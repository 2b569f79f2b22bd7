//! What is asked, again and again.

/// One call, and how its answer is known to be right.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// An answer is one if its status is 200 and its body at least as long as the payload. What it says is for an
    /// ordinary client to check, once.
    pub(super) payload: usize,
}

impl Request {
    /// `message` is encoded already.
    pub fn grpc(path: &str, message: &[u8], bearer: Option<&str>, payload: usize) -> Self {
        let mut headers = vec![("content-type", "application/grpc".to_owned()), ("te", "trailers".to_owned())];
        headers.extend(bearer.map(|token| ("authorization", format!("Bearer {token}"))));
        let length = u32::try_from(message.len()).expect("a message of less than 4 GiB");
        let body = [&[0], &length.to_be_bytes()[..], message].concat();
        Self { method: "POST", path: path.to_owned(), headers, body, payload }
    }

    pub fn get(path: &str, header: (&'static str, String), payload: usize) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: vec![header], body: Vec::new(), payload }
    }
}
