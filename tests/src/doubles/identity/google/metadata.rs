//! The metadata server of a machine that runs as a service account.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::access::{CLOUD_PLATFORM, service_account};
use super::{Google, GoogleService, PROJECT, PROJECT_NUMBER};
use crate::doubles::http::{Answer, json as answer, whole};
use crate::doubles::identity::service::{Fields, header as value_of};

const ACCOUNTS: &str = "instance/service-accounts/";

impl Google {
    pub(super) fn metadata(&self, request: &Request<Bytes>) -> Answer {
        if request.uri().path() == "/" {
            return text("computeMetadata/\n");
        }
        if request.method() != Method::GET {
            return page(StatusCode::METHOD_NOT_ALLOWED, "The request method is inappropriate for the URL.");
        }
        // Both keep out requests that somebody was tricked into sending.
        if value_of(request, "metadata-flavor") != "Google" {
            return page(StatusCode::FORBIDDEN, "Missing required header \"Metadata-Flavor\": \"Google\"");
        }
        if request.headers().contains_key("x-forwarded-for") {
            return page(StatusCode::FORBIDDEN, "The request carries \"X-Forwarded-For\"");
        }
        match request.uri().path().strip_prefix("/computeMetadata/v1/").unwrap_or_default() {
            "project/project-id" => text(PROJECT),
            "project/numeric-project-id" => text(PROJECT_NUMBER),
            path => match path.strip_prefix(ACCOUNTS).and_then(|rest| rest.split_once('/')) {
                Some((account, what)) => self.of_account(account, what, &Fields::of_query(request)),
                None => page(StatusCode::NOT_FOUND, "The requested URL was not found on this server."),
            },
        }
    }

    fn of_account(&self, name: &str, what: &str, query: &Fields) -> Answer {
        let (email, id) = {
            let directory = self.directory.lock().unwrap();
            let attached = directory.attached.clone().filter(|email| name == "default" || name == email);
            match attached.and_then(|email| directory.find(&email).map(|account| (email.clone(), account.id.clone()))) {
                Some(account) => account,
                None => return page(StatusCode::NOT_FOUND, "The service account was not found."),
            }
        };
        match what {
            "" if query.get("recursive") == Some("true") => flavoured(answer(
                StatusCode::OK,
                &json!({ "aliases": ["default"], "email": email, "scopes": [CLOUD_PLATFORM] }),
            )),
            "email" => text(&email),
            "scopes" => text(CLOUD_PLATFORM),
            "token" => self.access_token(&email, query),
            "identity" => self.identity(&email, &id, query),
            _ => page(StatusCode::NOT_FOUND, "The requested URL was not found on this server."),
        }
    }

    fn access_token(&self, email: &str, query: &Fields) -> Answer {
        let scopes = query.get("scopes").unwrap_or(CLOUD_PLATFORM).split(',').map(str::to_owned).collect();
        let (token, _) = self.issue(GoogleService::Metadata, service_account(email), scopes, 3599);
        flavoured(answer(StatusCode::OK, &json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" })))
    }

    fn identity(&self, email: &str, id: &str, query: &Fields) -> Answer {
        let Some(audience) = query.get("audience") else {
            return page(StatusCode::BAD_REQUEST, "non-empty audience parameter required");
        };
        let mut more = json!({ "azp": id, "sub": id });
        if query.get("format") == Some("full") {
            more["email"] = email.into();
            more["email_verified"] = true.into();
            more["google"] = json!({ "compute_engine": { "project_id": PROJECT, "zone": "europe-west3-a" } });
        }
        text(&self.id_token(GoogleService::Metadata, audience, more))
    }

    pub(super) fn id_token(&self, by: GoogleService, audience: &str, more: Value) -> String {
        self.keys.sign(&self.service(by).claims(&self.url, audience, self.clock.now(), more))
    }
}

fn text(body: &str) -> Answer {
    typed(StatusCode::OK, "application/text", body.to_owned())
}

/// Errors are pages, not JSON.
pub(super) fn page(status: StatusCode, what: &str) -> Answer {
    typed(status, "text/html; charset=UTF-8", format!("<!DOCTYPE html>\n<title>{status}</title>\n<p>{what}\n"))
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Answer::new(whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    flavoured(answer)
}

/// By which clients know that no other server answered.
fn flavoured(mut answer: Answer) -> Answer {
    answer.headers_mut().insert("metadata-flavor", HeaderValue::from_static("Google"));
    answer
}
