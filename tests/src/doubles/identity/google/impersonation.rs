//! The IAM Service Account Credentials API: tokens of a service account, for those who were granted them.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::access::{CLOUD_PLATFORM, service_account};
use super::{Google, GoogleService};
use crate::doubles::http::{Answer, json as answer};
use crate::doubles::identity::service::header;

const ACCOUNTS: &str = "/v1/projects/-/serviceAccounts/";
const IAM: &str = "https://www.googleapis.com/auth/iam";
const LONGEST_SECONDS: u64 = 3600;

pub(super) fn refusal(status: StatusCode, word: &str, message: &str, permission: Option<&str>) -> Answer {
    let mut error = json!({ "code": status.as_u16(), "message": message, "status": word });
    if let Some(permission) = permission {
        error["details"] = json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "IAM_PERMISSION_DENIED",
            "domain": "iam.googleapis.com", "metadata": { "permission": permission },
        }]);
    }
    answer(status, &json!({ "error": error }))
}

fn invalid(message: &str) -> Answer {
    refusal(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message, None)
}

impl Google {
    pub(super) fn impersonate(&self, request: &Request<Bytes>) -> Answer {
        let called = request.uri().path().strip_prefix(ACCOUNTS).and_then(|rest| rest.rsplit_once(':'));
        let Some((email, method)) = called.filter(|_| request.method() == Method::POST) else {
            return invalid("Invalid form of resource name; the project is given as \"-\".");
        };
        let email = email.replace("%40", "@");
        let body: Value = match serde_json::from_slice(request.body()) {
            Ok(body) => body,
            Err(_) => return invalid("Invalid JSON payload received."),
        };
        let permission = match method {
            "generateAccessToken" => "iam.serviceAccounts.getAccessToken",
            "generateIdToken" => "iam.serviceAccounts.getOpenIdToken",
            _ => return refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "Method not found.", None),
        };
        match self.permitted(request, &email, permission) {
            Err(refused) => *refused,
            Ok(_) if method == "generateAccessToken" => self.generate_access_token(&email, &body),
            Ok(id) => self.generate_id_token(&email, &id, &body),
        }
    }

    /// The account's unique id, where the caller may have its tokens.
    fn permitted(&self, request: &Request<Bytes>, email: &str, permission: &str) -> Result<String, Box<Answer>> {
        let bearer = header(request, "authorization").strip_prefix("Bearer ").unwrap_or_default();
        let access = self.access(bearer).ok_or_else(|| {
            let message = "Request had invalid authentication credentials. \
                           Expected OAuth 2 access token, login cookie or other valid authentication credential.";
            Box::new(refusal(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message, None))
        })?;
        if !access.covers(CLOUD_PLATFORM) && !access.covers(IAM) {
            let message = "Request had insufficient authentication scopes.";
            return Err(Box::new(refusal(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message, None)));
        }
        let directory = self.directory.lock().unwrap();
        let account = directory.find(email).filter(|account| account.token_creators.contains(&access.principal));
        account.map(|account| account.id.clone()).ok_or_else(|| {
            let message = format!("Permission '{permission}' denied on resource (or it may not exist).");
            Box::new(refusal(StatusCode::FORBIDDEN, "PERMISSION_DENIED", &message, Some(permission)))
        })
    }

    fn generate_access_token(&self, email: &str, body: &Value) -> Answer {
        let scopes: Vec<_> = body["scope"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if scopes.is_empty() {
            return invalid("Scope not provided.");
        }
        let lifetime =
            body["lifetime"].as_str().unwrap_or("3600s").strip_suffix('s').and_then(|text| text.parse().ok());
        let Some(lifetime) = lifetime.filter(|seconds| (1..=LONGEST_SECONDS).contains(seconds)) else {
            return invalid("The lifetime must be between 1s and 3600s.");
        };
        let scopes = scopes.into_iter().map(str::to_owned).collect();
        let (token, end) = self.issue(GoogleService::IamCredentials, service_account(email), scopes, lifetime);
        let end = prost_types::Timestamp { seconds: end.as_secs().cast_signed(), nanos: 0 };
        answer(StatusCode::OK, &json!({ "accessToken": token, "expireTime": end.to_string() }))
    }

    fn generate_id_token(&self, email: &str, id: &str, body: &Value) -> Answer {
        let Some(audience) = body["audience"].as_str().filter(|audience| !audience.is_empty()) else {
            return invalid("Audience not provided.");
        };
        let mut more = json!({ "azp": id, "sub": id });
        // Protobuf's JSON form takes a boolean in quotes as well.
        if body["includeEmail"] == true || body["includeEmail"] == "true" {
            more["email"] = email.into();
            more["email_verified"] = true.into();
        }
        answer(StatusCode::OK, &json!({ "token": self.id_token(GoogleService::IamCredentials, audience, more) }))
    }
}
